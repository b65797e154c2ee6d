"""The recipe of an image: all that is needed to make it again, kept in the PNG's metadata."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.utils.errors import UserError

KEY = "ldm"
# Settings that keep their name from the command line to the pipeline and the PNG.
CALL = ("num_inference_steps", "guidance_scale", "eta", "noise", "clip_skip", "height", "width", "strength")
READING = ("variant", "prediction", "ema", "dtype")
MODEL = ("vae_slicing", "vae_tiling", "lora_scale")
FILES = ("image", "mask")
MODELS = ("checkpoint", "weak_checkpoint", "lora")
NODES = ("scheduler", "timesteps", "thresholding", "guidance")
WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt")


def request_of(cfg: DictConfig) -> dict[str, Any]:
    """What is asked for, plain types only: the part of the config that decides on the pixels."""
    given = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(given, dict)
    names = ("kind", *MODELS, "size", *CALL, *READING, *MODEL, *FILES, *NODES)
    request = {name: given[name] for name in names if name in given}
    for name in ("guidance_scale", "eta", "strength", "lora_scale"):  # 4 on the command line is an int
        if isinstance(request.get(name), int):
            request[name] = float(request[name])
    for name in FILES:
        if name in request:
            request[name] = str(Path(request[name]).absolute())
    for name in MODELS:
        if request[name] is not None and Path(request[name]).exists():
            request[name] = str(Path(request[name]).absolute())
    return request


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the weights in a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.suffix in WEIGHTS)
    parts = (f"{file.relative_to(path).as_posix()} {digest(file)}\n" for file in files)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def digests(request: dict[str, Any], checkpoint: Path) -> dict[str, str]:
    """SHA-256 of everything that the request reads."""
    paths = {"checkpoint": checkpoint}
    paths |= {name: Path(request[name]) for name in (*FILES, *MODELS[1:]) if request.get(name)}
    return {name: digest(path) for name, path in paths.items() if path.exists()}


def recipe(
    request: dict[str, Any],
    hashes: dict[str, str],
    batch: list[dict[str, Any]],
    index: int,
    scale: int,
    net_evaluations: int,
) -> dict[str, str]:
    """Metadata of the PNG of one image.

    Args:
        request: what was asked for.
        hashes: of the files that were read.
        batch: prompt, negative prompt and seed of each image that was made together with it.
        index: its place among them.
        scale: by which the picture was enlarged.
        net_evaluations: how often a net was asked about the image.
    """
    value = {**batch[index], **request, "sha256": hashes, "ldm": version("ldm"), "scale": scale}
    value["net_evaluations"] = net_evaluations
    if len(batch) > 1:
        value |= {"batch": batch, "index": index}
    return {KEY: json.dumps(value)}


def read_recipe(path: str) -> dict[str, Any]:
    """The recipe in a PNG.

    Raises: UserError if there is none.
    """
    if not Path(path).is_file():
        raise UserError(f"replay: no image at {path}")
    from PIL import Image

    try:
        with Image.open(path) as image:
            value = json.loads(image.info.get(KEY, "null"))
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise UserError(f"replay: {path} cannot be read: {error}") from error
    if not isinstance(value, dict) or not {"kind", "prompt", "seed", "sha256"} <= value.keys():
        raise UserError(f"replay: {path} holds no recipe of ldm-sample")
    return value


def check_digests(found: dict[str, str], wanted: dict[str, str]) -> None:
    """Checks that the files of a recipe are what they were.

    Raises: UserError naming one that has changed.
    """
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(f"replay: the {name} is gone or not what it was when the image was made")
