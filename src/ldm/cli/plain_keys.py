"""Keys of a command that have the name of a config group which the command does not use.

Hydra takes NAME=VALUE for a choice in a group wherever there is a group of that name: `ldm-sample
prediction=null` would look for an option "null" in conf/prediction, which is for training.
"""

import contextlib
from collections.abc import Iterator
from importlib import resources

from hydra._internal.config_repository import ConfigRepository
from omegaconf import OmegaConf


def plain_keys(config_name: str) -> set[str]:
    """Top-level keys that a primary config has itself, rather than from one of its groups."""
    file = resources.files("ldm.conf") / f"{config_name}.yaml"
    if not file.is_file():  # one of the user's, by --config-dir
        return set()
    config = OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8")))
    assert isinstance(config, dict)
    groups = [name for entry in config.get("defaults", []) if isinstance(entry, dict) for name in entry]
    chosen = {str(name).split()[-1] for name in groups}  # "optional local", "override hydra/job_logging"
    return {str(key) for key in config} - chosen - {"defaults", "hydra"}


@contextlib.contextmanager
def without_groups_of(config_name: str) -> Iterator[None]:
    """While inside, the keys of a command are no config groups."""
    keys, before = plain_keys(config_name), ConfigRepository.group_exists

    def group_exists(self: ConfigRepository, config_path: str) -> bool:
        return config_path not in keys and before(self, config_path)

    ConfigRepository.group_exists = group_exists  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigRepository.group_exists = before  # type: ignore[method-assign]
