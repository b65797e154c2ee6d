"""The model whose weights a run starts from (`init_checkpoint`), validated against the config."""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.original import PREDICTIONS
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

# Arguments that change neither the weights nor what the nets make of them.
FREE = {"_target_", "_partial_", "dropout", "model_name", "pretrained", "trainable"}
FREE |= {"scaling_factor", "shift_factor"}


def load_initial(config: dict[str, Any]) -> LoadedModel | None:
    """The model that the run's nets start from; None without `init_checkpoint`.

    Raises:
        UserError: naming the first key of the config that differs from the checkpoint, or a net that the
            checkpoint lacks.
    """
    path = config["init_checkpoint"]
    if path is None:
        return None
    model = load_model(path, prediction=configured_prediction(config))
    wanted = ("autoencoder",) if config["task"] is None else ("text_encoder", "backbone")
    if missing := [name for name in wanted if name not in model.components]:
        raise UserError(f"{path} has no {', '.join(missing)}", "init_checkpoint")
    for name in wanted:
        check_same(name, config[name], model.config[name], type(model.components[name]))
    for key in ("schedule", "prediction") if config["task"] is not None else ():
        here, there = (
            str(node[key]["_target_"]) for node in (config["diffusion"], model.config["diffusion"])
        )
        if here != there:
            log.warning("init_checkpoint was trained with %s=%s and goes on with %s", key, there, here)
    return model


def configured_prediction(config: dict[str, Any]) -> str | None:
    """The prediction type of the config, for original files of 2.x, which do not record it."""
    if not (config.get("backbone") or {}).get("linear_projection"):
        return None
    target = str(config["diffusion"]["prediction"]["_target_"]).rpartition(".")[2]
    return next((word for word, name in PREDICTIONS.items() if name == target), None)


def without_pretrained(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a run with weights of its own: the text encoder's pretrained ones are not fetched."""
    if config["task"] is None or "pretrained" not in config["text_encoder"]:
        return config
    node = config["text_encoder"] | {"pretrained": None}
    return config | {"text_encoder": node, "task": config["task"] | {"text_encoder": node}}


def reference(path: str | None) -> str | None:
    """The name by which a checkpoint of the run refers to its base: a full path, or an id of the hub."""
    return str(Path(path).absolute()) if path is not None and Path(path).exists() else path


def check_same(name: str, node: Mapping[str, Any], other: Mapping[str, Any], kind: type) -> None:
    """Validates that the config of a net describes the net in a checkpoint.

    Args:
        name: of the net.
        node: its config.
        other: its config in the checkpoint.
        kind: its class in the checkpoint, whose defaults hold where a config has no value.

    Raises: UserError for the first argument that differs and matters to the weights.
    """
    if node["_target_"] != other["_target_"]:
        raise UserError(f"must be {other['_target_']} as in init_checkpoint, got {node['_target_']}", name)
    defaults = {key: p.default for key, p in inspect.signature(kind).parameters.items()}
    channels = node.get("channels")
    levels = len(channels) if isinstance(channels, list) else 0  # a net of a user may have any argument
    for key in sorted((node.keys() | other.keys()) - FREE):
        here, there = (_spread(key, n.get(key, defaults.get(key)), levels) for n in (node, other))
        if here != there:
            raise UserError(
                f"must be {other.get(key)} as in init_checkpoint, got {node.get(key)}", f"{name}.{key}"
            )


def _spread(key: str, value: Any, levels: int) -> Any:
    """One number for all levels as a list, the form of some files."""
    return [value] * levels if key == "num_heads" and levels and isinstance(value, int) else value
