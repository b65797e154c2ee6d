"""The recipe of an image: everything that is needed to sample it again, stored in the PNG's metadata."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.diffusion.random import VERSION
from ldm.utils.errors import UserError
from ldm.utils.image_io import save_png

KEY = "ldm"
FILES = ("image", "mask")
MODELS = ("checkpoint", "weak_checkpoint", "lora")
ITEM = ("prompt", "negative_prompt", "seed", "number")
WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt")

Item = Mapping[str, Any]
"""One image of a call: "prompt", "negative_prompt", "seed" and "number"; it draws from (seed, number)."""


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the weights in a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.suffix in WEIGHTS)
    parts = (f"{file.relative_to(path).as_posix()} {digest(file)}\n" for file in files)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def digests(request: Mapping[str, Any], checkpoint: Path) -> dict[str, str]:
    """SHA-256 of everything that a request reads."""
    paths = {"checkpoint": checkpoint}
    paths |= {name: Path(request[name]) for name in (*FILES, *MODELS[1:]) if request.get(name)}
    return {name: digest(path) for name, path in paths.items() if path.exists()}


def check_digests(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Checks that the files of a recipe have not changed.

    Raises: UserError naming one that has.
    """
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(f"the {name} is missing or has changed since the image was made")


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
    return value


def request_in(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], list[Item], int]:
    """Settings of the call, images sampled together and the image's index, from a recipe.

    Raises: UserError if the image was sampled with random draws of another version.
    """
    if (draws := recipe.get("draws", 1)) != VERSION:
        raise UserError(
            f"the image was sampled with random draws of version {draws}, this release has {VERSION}: "
            "the same seed gives another image; type the settings instead"
        )
    about = (*ITEM, "batch", "index", "scale", "sha256", "ldm", "draws", "net_evaluations")
    request = {name: value for name, value in recipe.items() if name not in about}
    own = {name: recipe[name] for name in ITEM if name in recipe}
    return request, recipe.get("batch", [own]), recipe.get("index", 0)
