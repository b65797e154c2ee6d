"""A config with its run directory: the paths in it, and config.yaml."""

from pathlib import Path
from typing import Any

import yaml

from ldm.utils.files import write_text

HOLDERS = ("paths", "trainer", "callbacks", "logger")
"""Keys of a config with paths of what a run writes."""


class _Plain(yaml.SafeDumper):
    """Writes a list that stands in several places once for each: a config is read by people."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(config: dict[str, Any]) -> str:
    """A resolved config as YAML, its keys in their order."""
    return yaml.dump(config, Dumper=_Plain, sort_keys=False, allow_unicode=True)


def write_config(config: dict[str, Any], directory: Path) -> None:
    """Writes config.yaml into a run directory, which is made if it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "config.yaml", to_yaml(config))


def moved(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The config of a run that writes its files into a directory instead of its own, `paths.run`."""
    before, after = str(config["paths"]["run"]), str(directory)

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(child) for key, child in value.items()}
        if isinstance(value, list):
            return [replaced(child) for child in value]
        if isinstance(value, str) and (value == before or value.startswith(f"{before}/")):
            return after + value[len(before) :]
        return value

    return config | {key: replaced(config[key]) for key in HOLDERS}
