"""The native format: one `.safetensors` with all weights and, as metadata, the config of what they are."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ldm.checkpoints.construct import construct
from ldm.utils.files import replacing

log = logging.getLogger(__name__)

# the in-place draws of layers' constructors
DRAWS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_)
COMPONENTS = ("autoencoder", "text_encoder", "backbone")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """What a file holds.

    Args:
        config: its metadata: a node for each component and further settings, plain types only.
        components: the modules by name, in evaluation mode.
    """

    config: dict[str, Any]
    components: dict[str, nn.Module]


def _tensors(components: Mapping[str, nn.Module], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """All parameters and persistent buffers as "{component}.{name}", floating ones in `dtype`."""
    tensors = {}
    for component, module in components.items():
        for name, value in module.state_dict().items():
            key = f"{component}.{name}"
            tensor = value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise ValueError(f"{key} holds NaN or infinite values in {tensor.dtype}; nothing was written")
            tensors[key] = tensor
    return tensors


def save_model(
    path: str | os.PathLike[str],
    components: Mapping[str, nn.Module],
    config: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Writes a model; the file appears whole or not at all.

    Args:
        path: of the `.safetensors` file; an existing one is replaced.
        components: modules by name, of "autoencoder", "text_encoder" and "backbone".
        config: resolved, plain types only; has a node with `_target_` for each component.
        dtype: of the floating-point weights; None keeps theirs.

    Raises: ValueError for a component without a node, a config that is not plain, weights that are not
        finite; OSError if the file cannot be written.
    """
    path = Path(path)
    for name in components:
        if name not in COMPONENTS or "_target_" not in config.get(name, {}):
            raise ValueError(
                f"a component must be one of {COMPONENTS} with a node in the config, got {name!r}"
            )
    try:
        text = json.dumps(dict(config), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the config of a model must hold plain types only: {error}") from error
    metadata = {"format": "ldm", "version": version("ldm"), "config": text}
    tensors = _tensors(components, dtype)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error
    log.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)


def _config(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """The config in a file's metadata."""
    if not metadata or metadata.get("format") != "ldm" or "config" not in metadata:
        raise ValueError(f"{path} is not a model of ldm: its metadata has no format 'ldm' with a config")
    try:
        config = json.loads(metadata["config"])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a model of ldm: its config is not JSON ({error})") from error
    if not isinstance(config, dict) or not any(isinstance(config.get(name), dict) for name in COMPONENTS):
        raise ValueError(f"{path} is not a model of ldm: its config has none of {COMPONENTS}")
    return config


class _NoDraws(TorchFunctionMode):
    """Leaves out draws on the meta device, which do nothing there but import torch's compiler (1.3 s)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if func in DRAWS and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **kwargs)


def _waits_for_values(module: nn.Module) -> bool:
    """Whether a module built on the meta device has tensors that no checkpoint fills (buffers not stored)."""
    stored = set(module.state_dict())
    if any(buffer.is_meta for name, buffer in module.named_buffers() if name not in stored):
        return True
    return any(isinstance(v, Tensor) and v.is_meta for part in module.modules() for v in vars(part).values())


def _build(node: Any, key: str) -> nn.Module:
    """A component without its weights: on the meta device where that loses nothing, which costs no time."""
    if isinstance(node, dict):
        node = {name: value for name, value in node.items() if name != "_partial_"}
    with torch.device("meta"), _NoDraws():
        module = construct(node, key)
    if not isinstance(module, nn.Module):
        raise ValueError(f"must be a module with a _target_, got {type(module).__name__} ({key})")
    if not _waits_for_values(module):
        return module
    with torch.random.fork_rng(devices=[]):
        computed: nn.Module = construct(node, key)
    return computed


def _compare(path: Path, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError with all missing, unexpected and mis-shaped keys."""
    lines = [f"missing {key} {wanted[key]}" for key in sorted(set(wanted) - set(found))]
    lines += [f"unexpected {key} {found[key]}" for key in sorted(set(found) - set(wanted))]
    lines += [
        f"shape of {key}: expected {wanted[key]}, got {found[key]}"
        for key in sorted(set(found) & set(wanted))
        if tuple(found[key]) != tuple(wanted[key])
    ]
    if lines:
        text = "\n  ".join(lines)
        raise ValueError(f"{path}: {len(lines)} keys do not fit the model in its config:\n  {text}")


def load_model(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LoadedModel:
    """Reads a model that `save_model` wrote. Nothing but classes and functions of `ldm` is called.

    Args:
        path: of the `.safetensors` file.
        device: to put it on.
        dtype: of the floating-point weights.

    Returns: its config and components.
    Raises: FileNotFoundError; ValueError if the file is truncated, foreign, names a target outside `ldm`, or
        if its weights do not fit its config (all keys are listed).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no model file at {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            config = _config(path, file.metadata())
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            components = {name: _build(config[name], name) for name in COMPONENTS if name in config}
            wanted = {
                f"{n}.{k}": tuple(v.shape) for n, m in components.items() for k, v in m.state_dict().items()
            }
            _compare(path, wanted, shapes)
            for name, module in components.items():
                state = {key: file.get_tensor(f"{name}.{key}") for key in module.state_dict()}
                floats = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
                module.load_state_dict(floats, assign=True)
                module.to(device=device, dtype=dtype).eval()
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    return LoadedModel(config=config, components=components)
