"""The native format: one `.safetensors` with all weights and, as metadata, the config of what they are."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.checkpoints.assemble import COMPONENTS
from ldm.utils.errors import UserError
from ldm.utils.files import replacing

log = logging.getLogger(__name__)


def _tensors(components: Mapping[str, nn.Module], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """All parameters and persistent buffers as "{component}.{name}", floating ones in `dtype`."""
    tensors = {}
    for component, module in components.items():
        for name, value in module.state_dict().items():
            key = f"{component}.{name}"
            tensor = value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise UserError(f"{key} holds NaN or infinite values in {tensor.dtype}; nothing was written")
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
            raise UserError(
                f"a component must be one of {COMPONENTS} with a node in the config, got {name!r}"
            )
    try:
        text = json.dumps(dict(config), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"the config of a model must hold plain types only: {error}") from error
    metadata = {"format": "ldm", "version": version("ldm"), "config": text}
    tensors = _tensors(components, dtype)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error
    log.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)


def config_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The config that the metadata of a file of ours holds; None for other files.

    Raises: ValueError if the config is broken.
    """
    if metadata.get("format") != "ldm" or "config" not in metadata:
        return None
    try:
        config = json.loads(metadata["config"])
    except json.JSONDecodeError as error:
        raise UserError(f"its config is not JSON ({error})") from error
    if not isinstance(config, dict) or not any(isinstance(config.get(name), dict) for name in COMPONENTS):
        raise UserError(f"its config has none of {COMPONENTS}")
    return config


def own_names(component: str, node: dict[str, Any], keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The names in a file of ours."""
    return {key: (f"{component}.{key}",) for key in keys}
