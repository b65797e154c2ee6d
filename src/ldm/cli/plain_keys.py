"""Keys of a command that have the name of a config group which the command does not use.

Hydra takes NAME=VALUE for a choice in a group wherever there is a group of that name: `ldm-sample
prediction=eps` would choose conf/prediction/eps.yaml, which is for training.
"""

from importlib import resources
from typing import Any

import yaml


def primary(config_name: str) -> dict[str, Any]:
    """A primary config of ours as its file has it; empty for one of the user's."""
    file = resources.files("ldm.conf") / f"{config_name}.yaml"
    if not file.is_file():
        return {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return dict(yaml.load(file.read_text(encoding="utf-8"), loader))


def _groups(config: dict[str, Any]) -> set[str]:
    """Groups in a defaults list."""
    groups = [name for entry in config.get("defaults", []) if isinstance(entry, dict) for name in entry]
    return {str(name).split()[-1] for name in groups}  # "optional local", "override hydra/job_logging"


def plain_keys(config_name: str) -> set[str]:
    """Top-level keys that a primary config has itself, rather than from one of its groups."""
    config = primary(config_name)
    return {str(key) for key in config} - _groups(config) - {"defaults", "hydra"}


def primary_keys(config_name: str) -> list[str]:
    """Top-level keys and groups of a command; of another primary config that it extends, too."""
    config = primary(config_name)
    keys = {str(key) for key in config} | _groups(config)
    for entry in config.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            keys.update(primary_keys(entry))
    return sorted(key for key in keys if "/" not in key and key not in ("defaults", "hydra"))


def is_group(name: str) -> bool:
    """True if `ldm.conf` has options of that name."""
    return (resources.files("ldm.conf") / name).is_dir()
