"""Files, images, devices, errors and the builder; imports nothing of ldm, and torch only when it is used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm.utils.image_io import load_image as load_image

__all__ = ["load_image"]


def __getattr__(name: str) -> Any:
    """The public name `name`, from the module that defines it."""
    if name not in __all__:
        raise AttributeError(f"module 'ldm.utils' has no attribute {name!r}")
    return getattr(importlib.import_module("ldm.utils.image_io"), name)
