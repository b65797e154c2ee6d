"""Top-level keys of a config that nothing reads: settings of a file that would have no effect."""

import codecs
from argparse import Namespace
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.cli.plain_keys import is_group, primary, primary_keys
from ldm.cli.schema import TYPES
from ldm.utils.errors import UserError, did_you_mean

HEADER = "# @package _global_"
GLOBAL = frozenset({"averages", "debug", "experiment", "mode"})  # groups whose options all begin with it


def check_stray(command: str, cfg: DictConfig, config: Mapping[str, Any], arguments: Namespace) -> None:
    """Raise UserError for a top-level key that no part of a command reads.

    Keys that were added on the command line (`+key=value`), and those that another value refers to
    (`${key}`), are the user's own business.

    Args:
        command: name of the command.
        cfg: its config.
        config: the same with interpolations resolved.
        arguments: flags and overrides of the command.
    """
    name = arguments.config_name or command
    if not primary(name):
        return
    added = {o.lstrip("+").replace("@", "=").partition("=")[0] for o in arguments.overrides if o[0] == "+"}
    known = known_keys(name) | {key.partition(".")[0].partition("/")[0] for key in added}
    for key in sorted(str(key) for key in config.keys() - known):
        if not _referred(key, cfg):
            raise UserError(_message(key, cfg, sorted(known), arguments.config_dir))


def known_keys(config_name: str) -> set[str]:
    """Top-level keys that a command reads: its own, its groups' and those that a mode adds."""
    own = {key.partition(".")[0] for key in TYPES.get(config_name, {})}
    return {"hydra", *own, *primary_keys(config_name)} - GLOBAL


def _referred(key: str, cfg: DictConfig) -> bool:
    raw = str(OmegaConf.to_container(cfg, resolve=False))
    return any(f"{opening}{key}{closing}" in raw for opening in ("${", "${.", ":", ",") for closing in "}.,[")


def _message(key: str, cfg: DictConfig, known: list[str], config_dir: str | None) -> str:
    if not is_group(key):
        return f"{key}: unknown key, set by a config file{did_you_mean(key, known) or '; no part reads it'}"
    option = _choice(key)
    line = f"{key}: the settings of {key}={option} would have no effect: the first line of its file must be"
    path = _file(key, option, config_dir)
    marked = path is not None and path.read_bytes().startswith(codecs.BOM_UTF8)
    return f"{line} {HEADER}{', without a byte order mark before it' if marked else ''}"


def _choice(group: str) -> str:
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.choices.get(group))


def _file(group: str, option: str, config_dir: str | None) -> Path | None:
    folders = [Path(config_dir)] if config_dir else []
    for folder in (*folders, Path(str(resources.files("ldm.conf")))):
        if (path := folder / group / f"{option}.yaml").is_file():
            return path
    return None
