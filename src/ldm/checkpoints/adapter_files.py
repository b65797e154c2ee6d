"""Files of adapters, read into formulas: those of diffusers, PEFT, kohya and LyCORIS."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ldm.checkpoints import adapter_formulas as formulas
from ldm.checkpoints.adapter_config import AdapterConfig, config_of, configs
from ldm.checkpoints.adapter_formulas import Formula
from ldm.checkpoints.adapter_names import LOHA, LOKR, PEFT, Place, foreign, split
from ldm.checkpoints.tensors import TensorFiles
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

FILE = "pytorch_lora_weights.safetensors"  # as diffusers calls it
FILES = (FILE, "pytorch_lora_weights.bin", "adapter_model.safetensors", "adapter_model.bin")
SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt")
PARTS = ("unet", "text_encoder")  # folders of PEFT's scripts, one for each net
Updates = Mapping[Place, Sequence[Formula]]
"""The formulas of each parameter that adapters change; their addends are summed."""


def adapter_files(path: Path) -> list[Path]:
    """The files of adapters that a path names.

    Args:
        path: a file, or a folder as diffusers or PEFT write it; one with a single file of weights.

    Raises: FileNotFoundError; ValueError for a folder with several that have no name known here.
    """
    if not path.is_dir():
        return [path]
    for name in FILES:
        if (path / name).is_file():
            return [path / name]
    if parts := [path / part for part in PARTS if (path / part).is_dir()]:
        return [file for part in parts for file in adapter_files(part)]
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise FileNotFoundError(f"no file of adapters in {path}: it has none of {', '.join(FILES)}")
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:3])
        raise UserError(f"{path} holds several files ({names}, ...): give the one to use")
    return found


def read_adapters(path: Path, places: Mapping[str, Place]) -> Updates:
    """The formulas in a file or folder of adapters, where they belong.

    Args:
        path: as for `adapter_files`.
        places: names that a file may give the parameters of a model (`adapter_names.places_of`).

    Raises: FileNotFoundError; ValueError if a tensor belongs nowhere, lacks a counterpart or is not finite,
        or if there is no adapter.
    """
    updates: dict[Place, list[Formula]] = {}
    for file in adapter_files(path):
        with TensorFiles([file]) as tensors:
            try:
                for place, found in _updates(file, tensors, places).items():
                    updates.setdefault(place, []).extend(found)
            except ValueError as error:
                raise UserError(f"{file}: {error}") from error
    return updates


def _updates(path: Path, files: TensorFiles, places: Mapping[str, Place]) -> dict[Place, list[Formula]]:
    """The formulas in one file."""
    layers: dict[str, dict[str, str]] = {}
    unknown = []
    for name in files.shapes:
        layer, role = split(name) or ("", "")
        slot = "bias" if role in ("bias", "up_bias", "whole_bias") else "weight"
        if f"{layer}.{slot}" in places:
            layers.setdefault(layer, {})[role] = name
        else:
            unknown.append(name)
    if not layers or unknown:
        raise UserError(_refusal(unknown))
    told = configs(path, files.metadata)
    if config_of(path) is None and any(layer.startswith(PEFT) for layer in layers):
        log.warning("%s has no adapter_config.json beside it: alpha is taken to be the rank", path)
    updates: dict[Place, list[Formula]] = {}
    for layer, names in layers.items():
        tensors = {role: tensor_of(files, name) for role, name in names.items()}
        component = next(p for s in ("weight", "bias") if (p := places.get(f"{layer}.{s}"))).component
        try:
            made = formulas_of(layer, tensors, told[component])
        except formulas.UnfitError as error:
            raise UserError(f"the adapter of {layer} {error}") from error
        for slot, formula in made.items():
            if (place := places[f"{layer}.{slot}"]) in updates:
                raise UserError(f"{layer} and another name are of one layer")
            updates[place] = formula
    return updates


def _refusal(unknown: list[str]) -> str:
    """The error of a file with tensors that are no adapter's, or of other layers."""
    if not unknown:
        return "it holds no adapter: no tensor has the name of one"
    kind = foreign(unknown)
    more = ", ..." if len(unknown) > 3 else ""
    text = f"{len(unknown)} tensors belong to no layer of this model: {', '.join(unknown[:3])}{more}"
    return f"{text}; {kind}" if kind else text


def tensor_of(files: TensorFiles, name: str) -> Tensor:
    """A tensor of a file of adapters.

    Raises: ValueError if it is complex or empty, or holds NaN or infinite values.
    """
    tensor = files.get(name)
    if tensor.is_complex() or not (tensor.is_floating_point() or name.endswith("alpha")):
        raise UserError(f"{name} must be of real numbers, got {str(tensor.dtype).removeprefix('torch.')}")
    if not tensor.numel():
        raise UserError(f"{name} is empty, of shape {tuple(tensor.shape)}: an adapter of rank 0 is none")
    if not bool(tensor.float().isfinite().all()):
        raise UserError(f"{name} holds NaN or infinite values in the file")
    return tensor


def formulas_of(layer: str, tensors: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, list[Formula]]:
    """The formulas of a layer's weight and bias by the tensors that a file has for it.

    Args:
        layer: its name in the file.
        tensors: by role (`adapter_names.ROLES`).
        config: settings of the adapters.

    Raises: ValueError naming what lacks a counterpart.
    """
    found: dict[str, list[Formula]] = {"weight": [], "bias": []}
    rest, scale = set(tensors) - {"alpha"}, Scale(layer, tensors, config)
    for roles, make in ((LORA, _lora), (EMBEDDING, _embedding), (LOHA, _loha), (LOKR, _lokr)):
        if rest & set(roles):
            found["weight"].append(make(layer, tensors, scale))
            rest -= set(roles)
    if "difference" in rest:
        found["weight"].append(formulas.Difference(value=tensors["difference"]))
    if rest & set(MAGNITUDES) or (config.dora and found["weight"]):
        found["weight"] = [_dora(layer, tensors, found["weight"])]
    if "whole" in rest:
        found["weight"].append(formulas.Replacement(value=tensors["whole"]))
    if "bias" in rest:
        found["bias"].append(formulas.Difference(value=tensors["bias"]))
    if "up_bias" in rest:
        found["bias"].append(formulas.Difference(value=tensors["up_bias"], scale=scale.of("down")))
    if "whole_bias" in rest:
        found["bias"].append(formulas.Replacement(value=tensors["whole_bias"]))
    if not any(found.values()):
        raise UserError(f"{layer} has an alpha and nothing that it multiplies")
    return {slot: made for slot, made in found.items() if made}


class Scale:
    """alpha / rank of a layer, by its tensor "alpha" or else by the settings.

    Args:
        layer: its name in the file.
        tensors: by role.
        config: settings of the adapters.
    """

    def __init__(self, layer: str, tensors: Mapping[str, Tensor], config: AdapterConfig) -> None:
        self.layer, self.tensors, self.config = layer, tensors, config

    def of(self, *roles: str) -> float:
        """alpha / rank, the rank being the rows of the last of the tensors that is there.

        Raises: ValueError for an alpha that is no single number.
        """
        there = [self.tensors[role] for role in roles if role in self.tensors]
        rank = (there[-1].shape[0] if there[-1].dim() else 0) if there else None
        alpha = self.tensors.get("alpha")
        if alpha is None:
            return self.config.scale(self.layer, rank)
        if alpha.numel() != 1:
            raise UserError(f"{self.layer}.alpha must be one number, got {tuple(alpha.shape)}")
        return float(alpha) / rank if rank else 1.0


LORA, EMBEDDING, MAGNITUDES = ("down", "up", "mid"), ("A", "B"), ("magnitude", "magnitude_vector")


def _need(layer: str, tensors: Mapping[str, Tensor], *roles: str) -> list[Tensor]:
    if missing := [role for role in roles if role not in tensors]:
        raise UserError(f"{layer} has only one half of its adapter: {', '.join(missing)} is missing")
    return [tensors[role] for role in roles]


def _lora(layer: str, tensors: Mapping[str, Tensor], scale: Scale) -> Formula:
    down, up = _need(layer, tensors, "down", "up")
    return formulas.LowRank(down=down, up=up, scale=scale.of("down"), core=tensors.get("mid"))


def _embedding(layer: str, tensors: Mapping[str, Tensor], scale: Scale) -> Formula:
    """PEFT's for a table of tokens, whose weight is (B A)^T."""
    a, b = (_matrix(layer, tensor) for tensor in _need(layer, tensors, "A", "B"))
    return formulas.LowRank(down=b.mT, up=a.mT, scale=scale.of("A"))


def _dora(layer: str, tensors: Mapping[str, Tensor], updates: list[Formula]) -> Formula:
    """LyCORIS's magnitudes have the axes of the weight; PEFT's are of output channels."""
    if len(updates) != 1 or "A" in tensors or not set(MAGNITUDES) & set(tensors):
        raise UserError(f"{layer} must have a magnitude and one update of its direction")
    if "magnitude" in tensors:
        return formulas.Decomposed(inner=updates[0], magnitude=tensors["magnitude"])
    return formulas.Decomposed(inner=updates[0], magnitude=tensors["magnitude_vector"].flatten())


def _loha(layer: str, tensors: Mapping[str, Tensor], scale: Scale) -> Formula:
    _need(layer, tensors, *LOHA[:4])
    first, second = (
        _factor(layer, tensors, "hada_w1", "hada_t1"),
        _factor(layer, tensors, "hada_w2", "hada_t2"),
    )
    return formulas.Hadamard(first=first, second=second, scale=scale.of("hada_w1_b"))


def _lokr(layer: str, tensors: Mapping[str, Tensor], scale: Scale) -> Formula:
    first, second = _factor(layer, tensors, "lokr_w1"), _factor(layer, tensors, "lokr_w2", "lokr_t2")
    return formulas.Kronecker(first=first, second=second, scale=scale.of("lokr_w1_b", "lokr_w2_b"))


def _factor(layer: str, tensors: Mapping[str, Tensor], name: str, core: str = "") -> Tensor:
    """A factor of LyCORIS: whole, of two matrices, or of a Tucker core between two transposed ones."""
    if name in tensors:
        return tensors[name].float()
    a, b = _need(layer, tensors, f"{name}_a", f"{name}_b")
    if core not in tensors:
        return formulas.product(a, b)
    return formulas.product(_matrix(layer, a).mT, b, tensors[core])


def _matrix(layer: str, tensor: Tensor) -> Tensor:
    if tensor.dim() != 2:
        raise UserError(f"{layer} must have factors that are matrices, got {tuple(tensor.shape)}")
    return tensor
