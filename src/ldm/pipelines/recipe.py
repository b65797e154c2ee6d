"""The recipe of an image: everything that is needed to sample it again, stored in the PNG's metadata."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.checkpoints.adapter_config import CONFIG, config_of
from ldm.diffusion.random import VERSION
from ldm.utils.errors import UserError
from ldm.utils.image_io import save_png

KEY = "ldm"
FILES = ("image", "mask")
MODELS = ("checkpoint", "weak_checkpoint", "lora", "embeddings", "vae")
ITEM = ("prompt", "negative_prompt", "seed", "number")
WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt")
# How recipes were read that do not say it.
OLD = {"prompt_weights": False, "long_prompts": "cut"}

Item = Mapping[str, Any]
"""One image of a call: "prompt", "negative_prompt", "seed" and "number"; it draws from (seed, number)."""


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the weights in a folder; of adapters with their settings."""
    settings = config_of(path)
    if settings is not None:
        return _digest_of(path.parent, [settings, path])
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return _digest_of(path, sorted(p for p in path.rglob("*") if p.suffix in WEIGHTS or p.name == CONFIG))


def _digest_of(folder: Path, files: Sequence[Path]) -> str:
    """SHA-256 of several files and their names."""
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").hexdigest()
        found.update(f"{path.relative_to(folder).as_posix()} {own}\n".encode())
    return found.hexdigest()


def digests(request: Mapping[str, Any], checkpoint: Path) -> dict[str, str]:
    """SHA-256 of everything that a request reads; of several files, that of their digests."""
    paths = {"checkpoint": [checkpoint]}
    for name in (*FILES, *MODELS[1:]):
        if value := request.get(name):
            paths[name] = [Path(path) for path in (value if isinstance(value, list) else [value])]
    return {name: _joined(files) for name, files in paths.items() if all(f.exists() for f in files)}


def _joined(files: Sequence[Path]) -> str:
    found = [digest(file) for file in files]
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def check_digests(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Checks that the files of a recipe have not changed.

    Raises: UserError naming one that has.
    """
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(
                f"the {name} is missing or has changed since the image was made; if it has moved, give "
                f"{name}=PATH",
                name,
            )


def recipe(
    request: Mapping[str, Any], hashes: Mapping[str, str], batch: Sequence[Item], index: int, scale: int
) -> dict[str, Any]:
    """The recipe of one image.

    Args:
        request: settings of the call.
        hashes: of the files that were read.
        batch: the images that were sampled together: the last bits of an image depend on their number.
        index: of the image among them.
        scale: by which the picture is enlarged.
    """
    made_by = {"ldm": version("ldm"), "draws": VERSION}
    value = {**batch[index], **request, "sha256": dict(hashes), **made_by, "scale": scale}
    return value | ({"batch": list(batch), "index": index} if len(batch) > 1 else {})


def save_with_recipe(image: Image.Image, path: Path, recipe: Mapping[str, Any]) -> None:
    """Writes a sampled image, enlarged by the recipe's scale, as a PNG with its recipe."""
    value = {**recipe, "net_evaluations": image.info["net_evaluations"]}
    if (scale := recipe["scale"]) > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(image, path, {KEY: json.dumps(value)})


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe in a PNG.

    Raises: UserError if there is none.
    """
    if not Path(path).is_file():
        raise UserError(f"no image at {path}")
    try:
        with Image.open(path) as image:
            value = json.loads(image.info.get(KEY, "null"))
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict) or not {"kind", "prompt", "seed", "sha256"} <= value.keys():
        raise UserError(f"{path} holds no recipe of ldm-sample")
    if not _is_whole(value):
        raise UserError(f"{path} holds a recipe of ldm-sample that is not whole: was it edited?")
    return value


def _is_whole(recipe: Mapping[str, Any]) -> bool:
    """True if a recipe has the fields that all of them have, and its image among those of its batch."""
    batch, index = recipe.get("batch", [recipe]), recipe.get("index", 0)
    return (
        {"checkpoint", *ITEM} <= recipe.keys()
        and isinstance(recipe["sha256"], dict)
        and isinstance(batch, list)
        and all(isinstance(item, dict) and {*ITEM} <= item.keys() for item in batch)
        and isinstance(index, int)
        and 0 <= index < len(batch)
    )


def request_in(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], list[Item], int]:
    """Settings of the call, images sampled together and the image's index, from a recipe.

    A recipe without rules for reading its prompt was written when brackets were text.

    Raises: UserError if the image was sampled with random draws of another version.
    """
    if (draws := recipe.get("draws", 1)) != VERSION:
        raise UserError(
            f"the image was sampled with random draws of version {draws}, this release has {VERSION}: "
            "the same seed gives another image; type the settings instead"
        )
    about = (*ITEM, "batch", "index", "scale", "sha256", "ldm", "draws", "net_evaluations")
    request = {name: value for name, value in recipe.items() if name not in about}
    request |= {name: value for name, value in OLD.items() if name not in request}
    own = {name: recipe[name] for name in ITEM if name in recipe}
    return request, recipe.get("batch", [own]), recipe.get("index", 0)
