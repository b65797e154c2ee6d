"""From any checkpoint to any format: ours, diffusers' folders, original single files."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.checkpoints import original
from ldm.checkpoints.assemble import COMPONENTS, LoadedModel
from ldm.checkpoints.diffusers_folder import split, write_folder
from ldm.checkpoints.keymaps import POINTWISE
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.lora import save_lora
from ldm.checkpoints.names import in_single_file
from ldm.checkpoints.native import save_model
from ldm.checkpoints.rescale import with_scale
from ldm.checkpoints.store import is_sharded, of_training
from ldm.checkpoints.tensors import TensorFiles
from ldm.checkpoints.training import is_training_checkpoint, stored_updates
from ldm.checkpoints.vae_shapes import SCALING_FACTOR
from ldm.utils.errors import UserError
from ldm.utils.files import replacing

log = logging.getLogger(__name__)

FORMATS = ("ldm", "diffusers", "original", "lora")


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: str = "ldm",
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    **reading: Any,
) -> None:
    """Writes a checkpoint in another format; the target appears whole or not at all, its folders are made.

    Args:
        source: anything that `load_model` reads.
        target: a `.safetensors` file (ldm, original), a `.ckpt` file (original) or a folder (diffusers).
        format: of the target, one of `FORMATS`; "lora": the adapters alone, of a training checkpoint of such.
        dtype: of the floating-point weights; None keeps theirs, bit for bit.
        overwrite: whether a file may be there; a folder must always be new or empty.
        reading: `variant`, `prediction`, `ema`, `strict`, `vae`, `lora` and `lora_scale` of `load_model`.

    Raises: FileExistsError; FileNotFoundError; ValueError if the model cannot be read or has no place in the
        format.
    """
    path = Path(target)
    check_target(path, format, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "lora":
        _write_adapters(Path(source), path, dtype, reading.get("ema", True))
        return
    write_checkpoint(load_model(source, dtype=dtype, **reading), path, format)


def convert_diffusers_checkpoint(
    diffusers_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
) -> None:
    """Writes a folder of diffusers as one `.safetensors` file of ours.

    Args:
        diffusers_path: the folder.
        output_path: of the file; an existing one is replaced, folders are made.
        dtype: of the floating-point weights; None keeps theirs, bit for bit.

    Raises: FileNotFoundError; ValueError as `load_model`.
    """
    convert_checkpoint(diffusers_path, output_path, dtype=dtype, overwrite=True)


def check_target(path: Path, format: str, overwrite: bool) -> None:
    """Checks that a model can be written to a path in a format.

    Raises: FileExistsError if something is there that must stay; ValueError for a suffix that does not fit.
    """
    if format not in FORMATS:
        raise UserError(f"format must be one of {FORMATS}, got {format!r}")
    suffixes = {"original": (".safetensors", ".ckpt"), "diffusers": ()}.get(format, (".safetensors",))
    if suffixes and path.suffix not in suffixes:
        raise UserError(f"format={format} writes a file {' or '.join(suffixes)}, got {path}")
    if format == "diffusers" and path.suffix in (".safetensors", ".ckpt", ".bin"):
        raise UserError(f"format=diffusers writes a folder, got {path}")
    if path.is_dir() if format != "diffusers" else path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"{path} exists: choose another name")
    if path.is_file() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name or overwrite=true")


def _write_adapters(source: Path, target: Path, dtype: torch.dtype | None, ema: bool) -> None:
    """The adapters in a training checkpoint as a file of diffusers'."""
    path = of_training(source)
    if path.is_dir() and not is_sharded(path):
        raise UserError(f"format=lora is for training checkpoints of adapters, not for {source}")
    with TensorFiles([path]) as files:
        config = json.loads(files.metadata.get("config", "{}")) if is_training_checkpoint(files) else {}
        if "adapters" not in config:
            raise UserError(f"format=lora is for training checkpoints of adapters, not for {source}")
        updates = stored_updates(files, config["adapters"], "ema." if ema else "nets.")
        save_lora(target, updates, config["backbone"], dtype)


def write_checkpoint(model: LoadedModel, path: Path, format: str) -> None:
    """Writes a model in one of the formats.

    Args:
        model: with all of its components, unless the format is ours.
        path: of the file or folder.
        format: one of `FORMATS`.

    Raises: ValueError if the model has no place in the format; nothing is written then.
    """
    if format == "ldm":
        save_model(path, model.components, model.config)
        return
    if missing := [name for name in COMPONENTS if name not in model.components]:
        raise UserError(f"the model is not complete: it has no {', '.join(missing)}")
    if format == "original":
        model = _as_original(model)
    if format == "diffusers":
        write_folder(path, model.config, model.components)
    else:
        _write_original(path, model.config, model.components)
    log.info("wrote %s", path)


def _as_original(model: LoadedModel) -> LoadedModel:
    """The same model with the scale of latents that an original file implies."""
    node = model.config["autoencoder"]
    stays = node.get("scaling_factor") == SCALING_FACTOR and not node.get("shift_factor")
    if stays or node.get("patch_shortcut") or not node["_target_"].endswith(".AutoencoderKL"):
        return model
    return with_scale(model, SCALING_FACTOR)


def _write_original(path: Path, config: Mapping[str, Any], components: Mapping[str, nn.Module]) -> None:
    tensors: dict[str, Tensor] = {}
    for component, module in components.items():
        state = module.state_dict()
        tensors |= split(state, in_single_file(component, config[component], list(state)))
    original.check_expressible(config)
    for name, value in tensors.items():
        if name.endswith(POINTWISE):
            tensors[name] = value[:, :, None, None]
    says = {name: said for said, name in original.PREDICTIONS.items()}
    prediction = says[config["diffusion"]["prediction"]["_target_"].rpartition(".")[2]]
    said = {"eps": "epsilon", "v": "v"}[prediction]
    with replacing(path) as temporary:
        if path.suffix == ".ckpt":
            torch.save({"state_dict": tensors}, temporary)
            return
        try:
            save_file(tensors, temporary, {"format": "pt", "modelspec.prediction_type": said})
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error
