"""Adapters are merged into a model and taken out of it; those trained here are written as diffusers does."""

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.checkpoints.adapter_config import PEFT_METADATA as PEFT_METADATA
from ldm.checkpoints.adapter_files import FILE as FILE
from ldm.checkpoints.adapter_files import Updates, read_adapters
from ldm.checkpoints.adapter_formulas import Formula, UnfitError
from ldm.checkpoints.adapter_names import Place, places_of
from ldm.checkpoints.assemble import LoadedModel, MismatchError
from ldm.checkpoints.keymaps import DIFFUSERS
from ldm.checkpoints.names import theirs
from ldm.models.lora import Update
from ldm.utils.errors import UserError
from ldm.utils.files import replacing

log = logging.getLogger(__name__)

BEFORE = "weights_before_adapters"  # attribute of a net: its weights before any adapter, on the CPU
Weights = dict[tuple[str, str], Tensor]
"""Weights by component and parameter."""
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def as_paths(name: str, value: Any) -> list[Path]:
    """The paths of an argument that takes one or several.

    Args:
        name: of the argument.
        value: that was given.

    Raises: TypeError for anything else.
    """
    several = isinstance(value, Iterable) and not isinstance(value, str | os.PathLike | Mapping)
    values = list(value) if several else [value]
    if not all(isinstance(v, str | os.PathLike) for v in values):
        raise TypeError(f"{name} must be a file or folder, or a list of them, got {type(value).__name__}")
    return [Path(v) for v in values]


def save_lora(
    path: Path, updates: Mapping[str, Update], node: Mapping[str, Any], dtype: torch.dtype | None = None
) -> None:
    """Writes adapters of the backbone as diffusers does; the file appears whole or not at all.

    `alpha / rank` is multiplied into `lora_B`: readers that know of no alpha see the same net. Adapters of
    layers that Stable Diffusion's net does not have keep our names, which only `ldm` reads.

    Args:
        path: of the `.safetensors` file; an existing one is replaced.
        updates: by layer.
        node: config of the backbone.
        dtype: of the file; None keeps the weights'.

    Raises: ValueError if a weight is not finite.
    """
    try:
        names = theirs("backbone", node, [f"{layer}.weight" for layer in updates], DIFFUSERS)
        layers = {layer: f"unet.{names[f'{layer}.weight'][0].removesuffix('.weight')}" for layer in updates}
    except ValueError:
        log.info("the adapters keep names of ldm: not all of their layers have a place in diffusers")
        layers = {layer: f"backbone.{layer}" for layer in updates}
    tensors = {}
    for layer, update in updates.items():
        for half, value in (("lora_A", update.down), ("lora_B", update.scale * update.up)):
            tensor = value.to("cpu", dtype or value.dtype).contiguous()
            if not bool(tensor.isfinite().all()):
                raise UserError(f"{layer} holds NaN or infinite values; nothing was written")
            tensors[f"{layers[layer]}.{half}.weight"] = tensor
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error
    log.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)


def merge(
    model: LoadedModel,
    files: Mapping[str, tuple[Updates, float]],
    keep: bool = False,
    untrained: bool = False,
) -> None:
    """Adds updates to the weights of a model's nets; other tensors take the place of the old ones.

    Each update is that of the weights before any adapter, as far as these are known, so several do not
    depend on one another.

    Args:
        model: its nets are changed.
        files: by name, updates and the scale that multiplies all of them.
        keep: remember the weights before any adapter, for `unmerge`.
        untrained: a file may change nothing, as that of a run at its first step.

    Raises: ValueError naming a file with an update that is not shaped as its weight, that changes nothing or
        whose sum with the weight is not finite; nothing is changed then.
    """
    current = _updated(model, files, untrained)
    for (component, key), value in current.items():
        net = model.components[component]
        parameter = net.get_parameter(key)
        if keep:
            vars(net).setdefault(BEFORE, {}).setdefault(key, parameter.data.cpu())
        parameter.data = value


def _updated(model: LoadedModel, files: Mapping[str, tuple[Updates, float]], untrained: bool) -> Weights:
    """The weights that updates change, as they are then.

    Raises: as `merge`.
    """
    original: Weights = {
        (name, key): value
        for name, net in model.components.items()
        for key, value in vars(net).get(BEFORE, {}).items()
    }
    current: Weights = {}
    for file, (updates, scale) in files.items():
        names = {(place.component, place.key): _parameter(model, place).detach() for place in updates}
        base = {name: original.get(name, weight).to(weight) for name, weight in names.items()}
        before = {name: current.get(name, weight) for name, weight in names.items()}
        after = {name: weight.clone() for name, weight in before.items()}
        for place, formulas in updates.items():
            try:
                _add(place, formulas, scale, after, base)
            except ValueError as error:
                raise type(error)(f"{file}: {error}") from error
        if scale and not untrained and all(torch.equal(after[name], before[name]) for name in names):
            raise UserError(f"{file}: it changes nothing: its updates are zero, or vanish when rounded")
        current |= after
    return current


def _add(place: Place, formulas: Sequence[Formula], scale: float, after: Weights, base: Weights) -> None:
    """Adds formulas to a weight, or to a part of it, in place."""
    name = f"{place.component}.{place.key}"
    part, old = (whole[place.component, place.key].chunk(place.parts)[place.part] for whole in (after, base))
    try:
        deltas = [formula.delta(old.cpu()) for formula in formulas]
    except UnfitError as error:
        raise MismatchError(f"the adapter of {name} {error} (lora)") from error
    part.copy_(part.float() + scale * sum(deltas[1:], deltas[0]).to(part.device))
    if not bool(part.isfinite().all()):
        dtype = str(part.dtype).removeprefix("torch.")
        raise UserError(f"the sum of {name} and its adapter is not finite in {dtype}")


def _parameter(model: LoadedModel, place: Place) -> Tensor:
    return model.components[place.component].get_parameter(place.key)


def unmerge(nets: Iterable[nn.Module]) -> None:
    """Puts the weights back that nets had before any adapter was merged with `keep`, bit for bit."""
    for net in nets:
        for key, value in vars(net).pop(BEFORE, {}).items():
            parameter = net.get_parameter(key)
            parameter.data = value.to(parameter)


def merge_lora(
    model: LoadedModel, path: Paths, scale: float | Sequence[float] = 1.0, keep: bool = False
) -> None:
    """Merges the adapters of files into a model.

    Args:
        model: its nets are changed.
        path: one or several: a file as diffusers, PEFT, kohya's scripts or LyCORIS name its tensors, or a
            folder of diffusers or PEFT.
        scale: one for all or one for each: 0 leaves the model as it is, 1 adds the adapters as they were
            trained; the change of the weights is multiplied by it.
        keep: remember the weights before, for `unmerge`.

    Raises: FileNotFoundError; ValueError if a tensor belongs to no layer of the model or does not fit, is not
        finite, or if a file changes nothing. The model is as it was then.
    """
    try:
        merge_files(model, path, scale, keep)
    except ValueError as error:
        raise ValueError(str(error)) from error


def merge_files(
    model: LoadedModel, path: Paths, scale: float | Sequence[float] = 1.0, keep: bool = False
) -> None:
    """`merge_lora` for the command line: errors are UserErrors, which it prints as one line."""
    paths = as_paths("lora", path)
    scales = scales_of(scale, len(paths))
    places: dict[str, Place] = {}
    for component, module in model.components.items():
        names = [name for name, _ in module.named_parameters()]
        places |= places_of(component, model.config[component], names)
    files = {
        str(found): (read_adapters(found, places), own) for found, own in zip(paths, scales, strict=True)
    }
    if len(files) < len(paths):
        raise UserError("lora must be different files, got one of them twice")
    merge(model, files, keep)
    log.info("merged %d updates of %s", sum(len(updates) for updates, _ in files.values()), ", ".join(files))


def scales_of(scale: float | Sequence[float], count: int) -> list[float]:
    """The scale of each of several files.

    Raises: ValueError if they are not as many, or not finite.
    """
    scales = [scale] * count if isinstance(scale, int | float) else list(scale)
    if len(scales) != count:
        raise UserError(f"lora_scale must be one number or {count}, one for each file, got {len(scales)}")
    for value in scales:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"lora_scale must be a finite number, got {value!r}")
    return [float(value) for value in scales]
