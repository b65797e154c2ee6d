"""The advice on an override whose key the config does not have."""

import contextlib
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from ldm.cli.advice import synonym
from ldm.cli.plain_keys import is_group, plain_keys
from ldm.utils.errors import UserError, did_you_mean


def check_unknown(error: Exception, command: str, arguments: Namespace, typed: Sequence[str]) -> None:
    """Raise UserError with the key to write instead, if an error of Hydra's is about an unknown key.

    Args:
        error: that ended the command.
        command: name of the command.
        arguments: its flags, and the overrides as Hydra was given them.
        typed: the overrides as they were typed.
    """
    overrides = arguments.overrides
    from ldm.cli.errors import unknown_override

    key = unknown_override(error)
    if key is None:
        return
    value = next((o.partition("=")[2] for o in typed if o.lstrip("+~").split("=")[0] == key), "")
    if (advice := synonym(command, key, value)) is not None:
        raise UserError(f"{key}: {advice}") from error
    kept = [o for o in overrides if o.lstrip("+~").split("=")[0] != key]
    config = composed(arguments.config_name or command, kept, arguments.config_dir)
    raise UserError(f"{key}: unknown key{_advice(key, config, command)}") from error


def _advice(key: str, config: dict[str, Any], command: str) -> str:
    """The nearest key, and how to add one below a node of a foreign class, which has more arguments."""
    parent, node = key.rpartition(".")[0], config
    for name in parent.split(".") if parent else []:
        child = node.get(name)
        if child is None and (name in node or (node is config and is_group(name))):
            return f"; {name} is null: choose an option ({name}=..., ldm-{command} --help {name})"
        node = child if isinstance(child, dict) else {}
    target = str(node.get("_target_", "ldm."))
    hint = did_you_mean(key, [name for name in keys_of(config) if not name.startswith("hydra.")])
    if parent and not target.startswith("ldm."):
        return f"{hint or ';'} +{key}=... passes it to {target}"
    return hint or f"; ldm-{command} --help lists the keys"


def composed(command: str, overrides: list[str], config_dir: str | None) -> dict[str, Any]:
    """The config with the overrides; where one is wrong, with the options of groups only, or with none.

    Interpolations are left as they are.
    """
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from ldm.cli.hydra_internals import opened

    options = [override for override in overrides if "." not in override.partition("=")[0]]
    for attempt in (overrides, options, []):
        with contextlib.suppress(Exception), opened(command, config_dir, plain_keys(command)) as hydra:
            config = hydra.compose_config(
                command, attempt, RunMode.MULTIRUN, validate_sweep_overrides=False, from_shell=False
            )
            return dict(OmegaConf.to_container(config))  # type: ignore[arg-type]
    return {}


def keys_of(config: dict[str, Any], prefix: str = "") -> list[str]:
    """All dotted keys of a config."""
    keys = []
    for name, value in config.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, dict):
            keys += keys_of(value, f"{prefix}{name}.")
    return keys
