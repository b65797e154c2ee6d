"""A model from a source of tensors: the nets of its config, filled without needless copies."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.checkpoints.tensors import TensorFiles
from ldm.models.lora import Update
from ldm.utils.construct import reconstruct
from ldm.utils.errors import UserError
from ldm.utils.meta import meta_device

log = logging.getLogger(__name__)

COMPONENTS = ("autoencoder", "text_encoder", "backbone")
Names = Callable[[str, dict[str, Any], Iterable[str]], dict[str, tuple[str, ...]]]
"""Maps (component, its config, names of ours) to the names in the files, of one tensor or of three."""


class MismatchError(UserError):
    """Tensors that do not fit a model.

    Args:
        report: all of them, a line each.
    """

    def __init__(self, report: str) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        """The report."""
        return self.report


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model read from a checkpoint.

    Args:
        config: a node for each component and further settings, plain types only.
        components: the modules by name, in evaluation mode.
    """

    config: dict[str, Any]
    components: dict[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The tensors of a model before they are read: files, names, config.

    Args:
        path: of the checkpoint, for messages.
        config: as in `LoadedModel`.
        files: the files of each component, perhaps the same for all.
        names: the names there.
        base: of a fine-tuned model, the checkpoint that has the components it did not change.
        updates: of a model with adapters, what they add to the layers of the base's backbone.
        strict: refuse tensors in the files that belong to no net, rather than leave them out with a warning.
    """

    path: Path
    config: dict[str, Any]
    files: dict[str, TensorFiles]
    names: Names
    base: str | None = None
    updates: Mapping[str, Update] = field(default_factory=dict)
    strict: bool = True


def _waits_for_values(module: nn.Module) -> bool:
    """True if a module has tensors that no checkpoint stores (non-persistent buffers)."""
    stored = set(module.state_dict())
    if any(buffer.is_meta for name, buffer in module.named_buffers() if name not in stored):
        return True
    return any(isinstance(v, Tensor) and v.is_meta for part in module.modules() for v in vars(part).values())


def build_empty(node: Any, key: str) -> nn.Module:
    """A component without its weights: on the meta device where that loses nothing, which costs no time."""
    if isinstance(node, dict):
        node = {name: value for name, value in node.items() if name != "_partial_"}
    with meta_device():
        module = reconstruct(node, key)
    if not isinstance(module, nn.Module):
        raise UserError(f"must be a module with a _target_, got {type(module).__name__}", key)
    if not _waits_for_values(module):
        return module
    with torch.random.fork_rng(devices=[]):
        computed: nn.Module = reconstruct(node, key)
    return computed


def _core(shape: Iterable[int]) -> tuple[int, ...]:
    """A shape without ones at its end: linear layers and 1x1 convolutions are the same numbers."""
    sizes = tuple(shape)
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes


def _compare(source: Source, wanted: Mapping[str, Mapping[str, tuple[int, ...]]]) -> None:
    """Raises MismatchError with all missing, unexpected and mis-shaped tensors, component by component.

    Unexpected ones are left out with a warning unless the source is strict.

    Args:
        source: the files.
        wanted: component -> name in the files -> shape.
    """
    lines: list[str] = []
    for component, shapes in wanted.items():
        found = source.files[component].shapes
        missing = [f"missing {name} {shape}" for name, shape in shapes.items() if name not in found]
        other = [
            f"shape of {name}: expected {shape}, got {found[name]}"
            for name, shape in shapes.items()
            if name in found and _core(found[name]) != _core(shape)
        ]
        if missing or other:
            lines += [f"{component}:", *(f"  {line}" for line in missing + other)]
    known = {name for shapes in wanted.values() for name in shapes}
    everything = {name: shape for files in source.files.values() for name, shape in files.shapes.items()}
    extra = [f"unexpected {name} {shape}" for name, shape in everything.items() if name not in known]
    if extra and source.strict:
        lines += ["besides:", *(f"  {line}" for line in extra)]
        if lines[0] == "besides:":  # nothing else is wrong
            lines.append("strict=false leaves these out")
    elif extra:
        log.warning("%s: %d tensors are left out (strict): %s, ...", source.path, len(extra), extra[0])
    if lines:
        count = sum(line.startswith(" ") for line in lines)
        text = "\n  ".join(lines)
        raise MismatchError(f"{source.path}: {count} tensors do not fit the model in its config:\n  {text}")


def assemble(
    source: Source,
    device: str | torch.device,
    dtype: torch.dtype | None,
    given: Mapping[str, nn.Module] | None = None,
) -> LoadedModel:
    """The model of a source; each tensor is read once and, where dtype and device allow, not copied.

    Args:
        source: config, files and names.
        device: to put the nets on.
        dtype: of the floating-point weights; None keeps those of the files.
        given: components that are not in the files.

    Raises: ValueError if tensors are missing, left over or of another shape than the config asks for.
    """
    config = source.config
    components = {name: build_empty(config[name], name) for name in COMPONENTS if name in source.files}
    names = {c: source.names(c, config[c], list(m.state_dict())) for c, m in components.items()}
    _compare(source, {c: _wanted(module, names[c]) for c, module in components.items()})
    for component, module in components.items():
        files, there = source.files[component], names[component]
        state = {
            key: _joined([files.get(name, dtype) for name in there[key]], value, there[key][0])
            for key, value in module.state_dict().items()
        }
        module.load_state_dict(state, assign=True)
    components |= given or {}
    for name in set(COMPONENTS) & set(config) - set(components):  # frozen, and not stored by a training run
        components[name] = reconstruct(config[name], name)
    for module in components.values():
        module.to(device=device, dtype=dtype).eval()
    return LoadedModel(config=config, components=components)


def _wanted(module: nn.Module, names: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in the files that fill a module, by their names there."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in module.state_dict().items():
        n = len(names[key])
        part = (value.shape[0] // n, *value.shape[1:]) if n > 1 else tuple(value.shape)
        shapes |= dict.fromkeys(names[key], part)
    return shapes


def _joined(parts: list[Tensor], ours: Tensor, name: str) -> Tensor:
    """One of our tensors, of the shape that our net has.

    Raises: ValueError for whole numbers, as quantised weights are, whose scales no format here has.
    """
    if ours.is_floating_point() and not parts[0].is_floating_point():
        kind = str(parts[0].dtype).removeprefix("torch.")
        raise UserError(f"{name} holds {kind}, not floating-point numbers: ldm reads no quantised weights")
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(ours.shape)
