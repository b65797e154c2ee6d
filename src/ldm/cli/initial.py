"""What a run starts from: the nets of `init_checkpoint`, checked against the config."""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.original import PREDICTIONS
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

# Arguments that change neither the weights nor what the nets make of them.
FREE = {"_target_", "_partial_", "dropout", "model_name", "pretrained", "trainable"}
FREE |= {"scaling_factor", "shift_factor"}


def load_initial(cfg: DictConfig) -> LoadedModel | None:
    """The model that the run's nets start from; None without `init_checkpoint`.

    Raises:
        UserError: naming the first key of the config that is not as in the checkpoint, or a net that the
            checkpoint lacks.
    """
    if cfg.init_checkpoint is None:
        return None
    model = load_model(cfg.init_checkpoint, prediction=_said(cfg))
    wanted = ("autoencoder",) if cfg.task is None else ("text_encoder", "backbone")
    if missing := [name for name in wanted if name not in model.components]:
        raise UserError(f"init_checkpoint: {cfg.init_checkpoint} has no {', '.join(missing)}")
    for name in wanted:
        node = OmegaConf.to_container(cfg[name], resolve=True)
        assert isinstance(node, dict)
        if wrong := difference(name, node, model.config[name], type(model.components[name])):
            raise UserError(wrong)
    for key in ("schedule", "prediction") if cfg.task is not None else ():
        here, there = (str(node[key]["_target_"]) for node in (cfg.diffusion, model.config["diffusion"]))
        if here != there:
            log.warning("init_checkpoint was trained with %s=%s and goes on with %s", key, there, here)
    return model


def _said(cfg: DictConfig) -> str | None:
    """What the config predicts, for original files of 2.x, which do not say it themselves."""
    if not OmegaConf.select(cfg, "backbone.linear_projection"):
        return None
    target = str(cfg.diffusion.prediction._target_).rpartition(".")[2]
    return next((word for word, name in PREDICTIONS.items() if name == target), None)


def reference(cfg: DictConfig) -> str | None:
    """How a checkpoint of the run names what it started from: a full path, or an id of the hub."""
    path = cfg.init_checkpoint
    return str(Path(path).absolute()) if path is not None and Path(path).exists() else path


def difference(name: str, node: Mapping[Any, Any], other: Mapping[str, Any], kind: type) -> str | None:
    """What the config of a net has otherwise than that of a checkpoint; None for nothing.

    Args:
        name: of the net.
        node: its config.
        other: its config in the checkpoint.
        kind: the class there, whose defaults count where a config is silent.
    """
    if node["_target_"] != other["_target_"]:
        return f"{name}: must be {other['_target_']} as in init_checkpoint, got {node['_target_']}"
    defaults = {key: p.default for key, p in inspect.signature(kind).parameters.items()}
    channels = node.get("channels")
    levels = len(channels) if isinstance(channels, list) else 0  # a net of one's own may have any argument
    for key in sorted((node.keys() | other.keys()) - FREE):
        here, there = (_spread(key, n.get(key, defaults.get(key)), levels) for n in (node, other))
        if here != there:
            return f"{name}.{key}: must be {other.get(key)} as in init_checkpoint, got {node.get(key)}"
    return None


def _spread(key: str, value: Any, levels: int) -> Any:
    """One number for all levels as a list, which some files have."""
    return [value] * levels if key == "num_heads" and levels and isinstance(value, int) else value
