"""Files of low-rank adapters: diffusers' (PEFT's) and kohya's are read and merged, diffusers' written."""

import itertools
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ldm.checkpoints.assemble import LoadedModel, MismatchError
from ldm.checkpoints.keymaps import DIFFUSERS, ORIGINAL
from ldm.checkpoints.names import theirs
from ldm.checkpoints.tensors import TensorFiles
from ldm.models.lora import Update
from ldm.utils.errors import UserError
from ldm.utils.files import replacing

log = logging.getLogger(__name__)

FILE = "pytorch_lora_weights.safetensors"  # as diffusers calls it
PEFT_METADATA = "lora_adapter_metadata"
# The last words of A's and B's names: PEFT's, kohya's, those of diffusers' scripts.
A_WORDS = ("lora_A", "lora_down", "lora.down", "lora_linear_layer.down")
B_WORDS = ("lora_B", "lora_up", "lora.up", "lora_linear_layer.up")
HALVES = dict.fromkeys(A_WORDS, "down") | dict.fromkeys(B_WORDS, "up")
WORDS = "|".join(map(re.escape, HALVES))
KEY = re.compile(rf"(?P<layer>.+)\.(?:(?P<half>{WORDS})\.weight|(?P<alpha>alpha))")
# What stands before the names of diffusers' layers, with dots (PEFT) and with underscores (kohya).
DOTTED = {"backbone": ("unet.",), "text_encoder": ("text_encoder.text_model.", "text_encoder.")}
FLAT = {
    "backbone": ("lora_unet_",),
    "text_encoder": ("lora_te_text_model_", "lora_te1_text_model_"),
}


class Place(NamedTuple):
    """Where an update belongs: a component, a weight of it, and which of its equal parts."""

    component: str
    key: str
    part: int = 0
    parts: int = 1


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


def _layers(component: str, node: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Place]:
    """All names that a file may give the layers of a component."""
    if component not in DOTTED:
        return {}
    weights = [key for key in keys if key.endswith("weight")]
    places = {f"{component}.{key.removesuffix('.weight')}": Place(component, key) for key in weights}
    columns = (DIFFUSERS, ORIGINAL) if component == "backbone" else (DIFFUSERS,)
    for key, column in itertools.product(weights, columns):
        try:
            parts = theirs(component, node, [key], column)[key]
        except ValueError:  # not in Stable Diffusion's topology
            continue
        for i, name in enumerate(parts):
            layer, place = name.removesuffix(".weight"), Place(component, key, i, len(parts))
            dotted = DOTTED[component] if column == DIFFUSERS else ()
            places |= {prefix + layer: place for prefix in dotted}
            places |= {prefix + layer.replace(".", "_"): place for prefix in FLAT[component]}
    return places


def _scale(metadata: Mapping[str, str], prefix: str, rank: int) -> float:
    """alpha / rank by what PEFT's metadata say; 1 where they say nothing.

    Raises: ValueError for settings that are not understood.
    """
    said = json.loads(metadata.get(PEFT_METADATA, "{}"))
    if said.get(f"{prefix}.alpha_pattern") or said.get(f"{prefix}.use_dora"):
        raise UserError("its metadata have an alpha_pattern or use_dora, which are not understood")
    alpha = said.get(f"{prefix}.lora_alpha", rank)
    return float(alpha) / (math.sqrt(rank) if said.get(f"{prefix}.use_rslora") else rank)


def _read(files: TensorFiles, places: Mapping[str, Place]) -> dict[Place, Update]:
    """The updates in a file of adapters, where they belong.

    Raises: ValueError naming tensors that belong nowhere or have no counterpart.
    """
    found: dict[Place, dict[str, str]] = {}
    unknown = []
    for name in files.shapes:
        match = KEY.fullmatch(name)
        place = places.get(match["layer"]) if match else None
        if match is None or place is None:
            unknown.append(name)
            continue
        half = "alpha" if match["alpha"] else HALVES[match["half"]]
        found.setdefault(place, {"layer": match["layer"]})[half] = name
    if unknown:
        raise UserError(
            f"{len(unknown)} tensors belong to no layer of this model: {', '.join(unknown[:3])}, ..."
        )
    updates = {}
    for place, names in found.items():
        if not {"down", "up"} <= names.keys():
            raise UserError(f"{names['layer']} has only one half of its adapter")
        down, up = files.get(names["down"]), files.get(names["up"])
        scale = _scale(files.metadata, names["layer"].partition(".")[0], len(down))
        if "alpha" in names:
            scale = float(files.get(names["alpha"])) / len(down)
        updates[place] = Update(down=down, up=up, scale=scale)
    return updates


def merge(model: LoadedModel, updates: Mapping[Place, Update], scale: float) -> None:
    """Adds updates to the weights of a model's nets; other tensors take the place of the old ones.

    Args:
        model: its nets are changed.
        updates: where they belong.
        scale: multiplies all of them.

    Raises: MismatchError naming an update that is not shaped as its weight; nothing is changed then.
    """
    changed: dict[tuple[str, str], Tensor] = {}
    for place, update in updates.items():
        weight = model.components[place.component].get_parameter(place.key)
        new = changed.get((place.component, place.key))
        new = weight.detach().clone() if new is None else new
        part = new.chunk(place.parts)[place.part]
        down, up = update.down, update.up
        rank = len(down)
        if up.shape[1] != rank or up.shape[0] != part.shape[0] or down[0].numel() != part[0].numel():
            raise MismatchError(
                f"the adapter of {place.component}.{place.key} is {tuple(up.shape)} x {tuple(down.shape)}, "
                f"for a weight {tuple(part.shape)} (lora)"
            )
        part.copy_(part.float() + scale * update.weight(part.shape).to(part.device))
        changed[place.component, place.key] = new
    for (component, key), value in changed.items():
        model.components[component].get_parameter(key).data = value


def merge_lora(model: LoadedModel, path: Path, scale: float = 1.0) -> None:
    """Merges the adapters of a file into a model.

    Args:
        model: its nets are changed.
        path: a file as diffusers or kohya name its tensors, or a folder with a `FILE`.
        scale: 0 leaves the model as it is, 1 adds the adapters as they were trained.

    Raises: FileNotFoundError; ValueError if a tensor belongs to no layer of the model or does not fit.
    """
    path = path / FILE if path.is_dir() else path
    places: dict[str, Place] = {}
    for component, module in model.components.items():
        places |= _layers(component, model.config[component], module.state_dict())
    with TensorFiles([path]) as files:
        try:
            updates = _read(files, places)
            merge(model, updates, scale)
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from error
    log.info("merged %d adapters of %s", len(updates), path)
