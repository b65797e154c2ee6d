"""Loads a model from a file of ours, a diffusers folder, an original file, a run or the hub."""

import logging
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldm.checkpoints import native, original
from ldm.checkpoints.adapter_files import Updates
from ldm.checkpoints.adapter_formulas import low_rank
from ldm.checkpoints.adapter_names import Place
from ldm.checkpoints.assemble import COMPONENTS, LoadedModel, Source, assemble
from ldm.checkpoints.diffusers_folder import folder_source, is_diffusers_folder
from ldm.checkpoints.lora import Paths, merge, merge_files
from ldm.checkpoints.names import in_single_file
from ldm.checkpoints.store import files_of, is_sharded, of_training
from ldm.checkpoints.tensors import TensorFiles
from ldm.checkpoints.training import is_training_checkpoint, training_source
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    **{
        f"stabilityai/stable-diffusion-{name}": f"sd2-community/stable-diffusion-{name}"
        for name in ("2", "2-base", "2-1", "2-1-base", "2-inpainting")
    },
}
"""Hub ids whose models have been taken down -> where the same files are now."""
HUB_FILES = ["*.json", "*/*.json", "*/*.txt", "*/*.safetensors", "*/*.bin"]


def load_model(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    variant: str | None = None,
    prediction: str | None = None,
    ema: bool = True,
    lora: Paths | None = None,
    lora_scale: float | Sequence[float] = 1.0,
) -> LoadedModel:
    """Reads a model. Nothing but classes and functions of `ldm` is called, whatever the file names.

    Args:
        path: a `.safetensors` of ours, a folder of diffusers, an original file, a run directory, a training
            checkpoint or a folder of them (the newest), or a hub id; the content tells which.
        device: to put it on.
        dtype: of the floating-point weights; None keeps those of the file.
        variant: of a folder's weights, such as "fp16"; None: the plain ones or, without such, what is there.
        prediction: "eps" or "v", for original files of 2.x, which do not say it.
        ema: take the EMA weights where a checkpoint has both.
        lora: adapters to merge into it (`ldm.checkpoints.lora.merge_lora`).
        lora_scale: one for all or one for each; 1 adds them as they were trained.

    Raises: FileNotFoundError; ValueError if the file is truncated, foreign, names a target outside `ldm`, or
        if its weights do not fit its config (all tensors are listed).
    """
    found = Path(path)
    if not found.exists():
        found = _from_hub(path)
    with ExitStack() as stack:
        try:
            source = _source(found, stack, variant, prediction, ema)
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"{path}: its config lacks or garbles {error}") from error
        model = assemble(source, device, dtype, unchanged(source, device, dtype))
    merge(model, _trained(source))
    if lora is not None:
        merge_files(model, lora, lora_scale)
    return model


def unchanged(source: Source, device: str | torch.device, dtype: torch.dtype | None) -> dict[str, nn.Module]:
    """The components of a fine-tuned model that its own files do not have: those of what it started from.

    Raises: FileNotFoundError if that is gone.
    """
    if source.base is None or set(source.files) >= set(COMPONENTS):
        return {}
    try:
        base = load_model(source.base, device, dtype)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{source.path} was fine-tuned from {source.base}, which is gone: {error}"
        ) from error
    return {name: net for name, net in base.components.items() if name not in source.files}


def _trained(source: Source) -> dict[str, tuple[Updates, float]]:
    """The adapters in a training checkpoint, for `merge`; empty if there are none."""
    updates = {Place("backbone", f"{name}.weight"): [low_rank(u)] for name, u in source.updates.items()}
    return {str(source.path): (updates, 1.0)} if updates else {}


def _source(path: Path, stack: ExitStack, variant: str | None, prediction: str | None, ema: bool) -> Source:
    """Config, files and names of the model at a path."""
    path = of_training(path)
    if path.is_dir() and not is_sharded(path):
        if not is_diffusers_folder(path):
            raise UserError(f"{path} is no folder of diffusers: it has no model_index.json")
        return folder_source(path, stack, variant)
    files = stack.enter_context(TensorFiles(files_of(path)))
    try:
        config = native.config_of(files.metadata)
        if config is not None:
            return _single(path, config, files, native.own_names)
        if is_training_checkpoint(files):
            return training_source(path, files, stack, ema)
        if original.is_original(files.shapes):
            original.prepare(files, ema)
            config = original.config_of(files.shapes, files.metadata, prediction)
            return _single(path, config, files, in_single_file)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    names = ", ".join(list(files.shapes)[:3]) or "no tensors"
    raise UserError(
        f"{path} is neither a model of ldm nor of Stable Diffusion: its metadata has no format 'ldm' with a "
        f"config, and it holds {names}"
    )


def _single(path: Path, config: dict[str, Any], files: TensorFiles, names: Any) -> Source:
    """All components from one file."""
    parts = {name: files for name in COMPONENTS if name in config}
    return Source(path=path, config=config, files=parts, names=names)


def _from_hub(path: str | os.PathLike[str]) -> Path:
    """The folder of a model of the Hugging Face hub, downloaded unless that was done before.

    Raises: FileNotFoundError if the path is no id of the hub, or the hub cannot be reached.
    """
    name = os.fspath(path)
    if not HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"no model file at {name}")
    from huggingface_hub import snapshot_download

    if (now := MOVED.get(name)) is not None:
        log.warning("%s has moved on the hub: %s is read", name, now)
    for place in filter(None, (now, name)):  # the old id may still be in the cache
        try:
            return Path(snapshot_download(place, allow_patterns=HUB_FILES))
        except Exception as error:  # whatever the hub's client raises: no network, no such model, no access
            reason = error
    raise FileNotFoundError(
        f"no file or folder {name}, and it could not be had from the hub ({type(reason).__name__}): check "
        f"the spelling and the network"
    ) from reason
