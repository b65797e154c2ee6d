"""The model that comes with `ldm`."""

import importlib.resources
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHIPPED = "emoji.safetensors"


@contextmanager
def shipped_model() -> Iterator[Path]:
    """Yields the path of the model that comes with `ldm`.

    Raises: FileNotFoundError if the installation has none.
    """
    shipped = importlib.resources.files("ldm") / "assets" / SHIPPED
    if not shipped.is_file():
        raise FileNotFoundError(
            f"no checkpoint was given and none comes with this installation (assets/{SHIPPED}): train "
            f"a model with ldm-train and give its file"
        )
    with importlib.resources.as_file(shipped) as file:
        yield file
