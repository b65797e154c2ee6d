"""Loads a model from a file of ours, a diffusers folder, an original file, a run or the hub."""

import logging
import os
import re
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ldm.checkpoints import native, original
from ldm.checkpoints.adapter_files import Updates
from ldm.checkpoints.adapter_formulas import low_rank
from ldm.checkpoints.adapter_names import Place
from ldm.checkpoints.assemble import COMPONENTS, LoadedModel, Source, assemble
from ldm.checkpoints.autoencoder_file import (
    autoencoder_folder_source,
    autoencoder_source,
    is_autoencoder_folder,
    replacement,
    spelling_in,
    spelling_of_file,
    without_autoencoder,
    without_others,
)
from ldm.checkpoints.diffusers_folder import FOLDERS, folder_source, is_diffusers_folder, no_model_in
from ldm.checkpoints.families import check_family, part_of
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
HUB_FILES = ("*.json", "*/*.json", "*/*.txt", "*/*.safetensors", "*/*.bin")
HUB_VAE_FILES = ("*config.json", "model_index.json", "*diffusion_pytorch_model*")


class Reading(NamedTuple):
    """Options of reading a checkpoint.

    Attributes:
        variant: of a folder's weights.
        prediction: of an original file of 2.x.
        ema: take the EMA weights.
        given: components that come from elsewhere.
    """

    variant: str | None = None
    prediction: str | None = None
    ema: bool = True
    given: Collection[str] = ()


def load_model(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    variant: str | None = None,
    prediction: str | None = None,
    ema: bool = True,
    strict: bool = True,
    vae: str | os.PathLike[str] | None = None,
    lora: Paths | None = None,
    lora_scale: float | Sequence[float] = 1.0,
) -> LoadedModel:
    """Reads a model. Nothing but classes and functions of `ldm` is called, whatever the file names.

    Args:
        path: a file of ours, a folder of diffusers, an original single file, an autoencoder alone, a run
            directory, a training checkpoint or a folder of them (the newest), or a hub id "owner/name"; the
            content decides which.
        device: to put it on.
        dtype: of the floating-point weights; None keeps those of the file.
        variant: of a folder's weights, such as "fp16"; None: the plain ones or, without such, what is there.
        prediction: "eps" or "v", for original files of 2.x, which do not say it.
        ema: take the EMA weights where a checkpoint has both.
        strict: refuse tensors of a file that belong to no net, rather than leave them out with a warning.
        vae: file, folder or hub id of an autoencoder, alone or in a model, in the place of the model's own.
        lora: adapters to merge into it (`ldm.checkpoints.lora.merge_lora`).
        lora_scale: one for all or one for each; 1 adds them as they were trained.

    Raises: FileNotFoundError; ValueError for a file that is foreign, not whole or does not fit its config.
    """
    with ExitStack() as stack:
        reading = Reading(variant, prediction, ema, () if vae is None else ("autoencoder",))
        source = replace(_opened(path, stack, reading), strict=strict)
        other = None if vae is None else _vae_source(vae, stack, Reading(variant, None, ema))
        model = _assembled(source, other, device, dtype)
    merge(model, _trained(source), untrained=True)
    if lora is not None:
        merge_files(model, lora, lora_scale)
    return model


def _opened(path: str | os.PathLike[str], stack: ExitStack, reading: Reading) -> Source:
    """Config, files and names of the model at a path or under a hub id."""
    found = found_at(path)
    try:
        source = _source(found, stack, reading)
        _check_prediction(reading.prediction, source.config)
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: its config lacks or garbles {error}") from error
    return source


def _check_prediction(prediction: str | None, config: dict[str, Any]) -> None:
    """Raises UserError for a prediction that is none, or not that of a model that records its own."""
    if prediction is None:
        return
    wanted = original.PREDICTIONS.get(prediction)
    if wanted is None:
        raise UserError(f"prediction must be one of {list(original.PREDICTIONS)}, got {prediction!r}")
    own = (
        str(config["diffusion"]["prediction"]["_target_"]).rpartition(".")[2] if "diffusion" in config else ""
    )
    if own not in ("", wanted):
        raise UserError(
            f"prediction must be left out for this model, which records {own}; got {prediction!r}"
        )


def _assembled(
    source: Source, vae: Source | None, device: str | torch.device, dtype: torch.dtype | None
) -> LoadedModel:
    """The model of a source, perhaps with another autoencoder."""
    given: dict[str, nn.Module] = {}
    if vae is not None:
        source, part = _with_vae(source, vae)
        given = assemble(part, device, dtype).components
    return assemble(source, device, dtype, unchanged(source, device, dtype) | given)


def _with_vae(source: Source, vae: Source) -> tuple[Source, Source]:
    """A source without its autoencoder, with the config of another, and that one alone."""
    source, own = without_autoencoder(source)
    part = replacement(vae, own)
    return replace(source, config=source.config | part.config), part


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


def _source(path: Path, stack: ExitStack, reading: Reading) -> Source:
    """Config, files and names of the model at a path.

    Raises: ValueError, with the path in front, for what is no model of ours or of Stable Diffusion.
    """
    try:
        path = of_training(path)
        folder = path.is_dir() and not is_sharded(path)
        return _of_folder(path, stack, reading) if folder else _of_files(path, stack, reading)
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _of_folder(path: Path, stack: ExitStack, reading: Reading) -> Source:
    """Of a pipeline or an autoencoder of diffusers."""
    if is_diffusers_folder(path):
        return folder_source(path, stack, reading.variant, reading.given)
    if is_autoencoder_folder(path):
        return replacement(autoencoder_folder_source(path, stack, reading.variant), None)
    raise UserError(f"{path} is no folder of diffusers: {no_model_in(path)}")


def _of_files(path: Path, stack: ExitStack, reading: Reading) -> Source:
    """Of a file of ours, an original file or a file of an autoencoder."""
    files = stack.enter_context(TensorFiles(files_of(path)))
    config = native.config_of(files.metadata)
    if config is not None:
        return _single(path, config, files, native.own_names)
    if is_training_checkpoint(files):
        return training_source(path, files, stack, reading.ema)
    if original.is_original(files.shapes):
        original.prepare(files, reading.ema)
        config = original.config_of(files.shapes, files.metadata, reading.prediction, reading.given)
        if "autoencoder" in reading.given and "autoencoder" not in config:
            without_others(files, keep=False)
        return _single(path, config, files, in_single_file)
    check_family(files.shapes)
    if any(name.startswith("cond_stage_model.") for name in files.shapes):
        raise UserError("it has no U-Net (model.diffusion_model.*): give a file of the whole model")
    if spelling := spelling_in(files.shapes):
        return replacement(autoencoder_source(path, files, spelling), None)
    if part := part_of(files.shapes):
        raise UserError(f"it holds {part} alone: give a file or folder of the whole model")
    names = ", ".join(list(files.shapes)[:3]) or "no tensors"
    raise UserError(
        f"{path} is neither a model of ldm nor of Stable Diffusion: its metadata has no format 'ldm' with a "
        f"config, and it holds {names}"
    )


def _vae_source(vae: str | os.PathLike[str], stack: ExitStack, reading: Reading) -> Source:
    """Of an autoencoder, alone or in a model.

    Raises: FileNotFoundError; ValueError; both with the name of the argument in front.
    """
    try:
        path = found_at(vae, HUB_VAE_FILES)
        path = path / FOLDERS["autoencoder"] if is_diffusers_folder(path) else path
        if path.is_dir() or not (spelling := spelling_of_file(path, stack)):
            return _source(path, stack, reading)
        return autoencoder_source(path, *spelling)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"vae: {error}") from error
    except UserError as error:
        raise UserError(f"vae: {error}") from error


def _single(path: Path, config: dict[str, Any], files: TensorFiles, names: Any) -> Source:
    """All components from one file."""
    parts = {name: files for name in COMPONENTS if name in config}
    return Source(path=path, config=config, files=parts, names=names)


def found_at(path: str | os.PathLike[str], patterns: Sequence[str] = HUB_FILES) -> Path:
    """A path that exists, or the folder of a model of the hub, downloaded unless that was done before.

    Args:
        path: of a file or folder, or an id of the hub.
        patterns: of the files to download.

    Raises: FileNotFoundError if the path is no id of the hub, or the hub cannot be reached.
    """
    if Path(path).exists():
        return Path(path)
    name = os.fspath(path)
    if not HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"no model file at {name}")
    from huggingface_hub import snapshot_download

    if (now := MOVED.get(name)) is not None:
        log.warning("%s has moved on the hub: %s is read", name, now)
    for place in filter(None, (now, name)):  # the old id may still be in the cache
        try:
            return Path(snapshot_download(place, allow_patterns=list(patterns)))
        except Exception as error:  # whatever the hub's client raises: no network, no such model, no access
            reason = error
    raise FileNotFoundError(
        f"no file or folder {name}, and it could not be had from the hub ({type(reason).__name__}): check "
        f"the spelling and the network"
    ) from reason
