"""The modes of a command through Hydra 1.3's own objects: what `hydra.main` does without the command line.

`hydra.compose` is public, but sweeps, launchers, shell completion and `--cfg` are reached by `hydra.main`
alone, which parses `sys.argv` and reports errors in its own way. This is the object behind both (1.3.2).
"""

import contextlib
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from ldm.cli.arguments import parser
from ldm.utils.errors import UserError

PACKAGE = "ldm.conf"


class _Repository(ConfigRepository):
    """Config files without the groups that have the name of a plain key."""

    def __init__(self, search_path: ConfigSearchPath, keys: Collection[str]) -> None:
        self.keys = keys
        super().__init__(search_path)

    def group_exists(self, config_path: str) -> bool:
        return config_path not in self.keys and super().group_exists(config_path)


@contextlib.contextmanager
def opened(command: str, config_dir: str | None, keys: Collection[str] = ()) -> Iterator[Hydra]:
    """Hydra on the configs of `ldm`, and of a folder of the user.

    Args:
        command: name of the command, which names the log file.
        config_dir: the folder, or None.
        keys: top-level keys that take values although there is a group of that name.

    Raises: UserError if there is no such folder.
    """
    state = GlobalHydra.instance()
    before, state.hydra = state.hydra, None  # one within another, for the advice on a mistake
    try:
        with hydra.initialize_config_module(PACKAGE, job_name=command, version_base="1.3"):
            instance = state.hydra
            assert isinstance(instance, Hydra)
            loader = instance.config_loader
            assert isinstance(loader, ConfigLoaderImpl)
            path = loader.config_search_path
            if config_dir is not None:
                folder = Path(config_dir).absolute()
                if not folder.is_dir():
                    raise UserError(f"--config-dir: no folder at {folder}")
                path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
            loader.repository = _Repository(path, keys)
            yield instance
    finally:
        GlobalHydra.instance().hydra = before  # another object: Hydra puts a copy back


def _sweeps_by_config(instance: Hydra, config_name: str, arguments: Namespace) -> bool:
    """True if the config has `hydra.mode=MULTIRUN`; it is composed only where it can.

    No config of `ldm` sets the mode, so it takes a folder of the user or an override of Hydra's own config.
    """
    keys = [override.lstrip("+~").partition("=")[0].partition("@")[0] for override in arguments.overrides]
    own = any(key in ("hydra", "hydra.mode") or key.startswith("hydra/") for key in keys)
    if arguments.config_dir is None and not own:
        return False
    return bool(instance.get_mode(config_name, arguments.overrides) == RunMode.MULTIRUN)


def mode(
    instance: Hydra, config_name: str, job: Callable[[DictConfig], None], arguments: Namespace
) -> Callable[[], Any]:
    """The call that the flags ask for: print the config or its origin, complete, sweep, or run the job."""
    overrides = list(arguments.overrides)
    if arguments.hydra_help:
        flags = parser(config_name)
        return partial(instance.hydra_help, config_name=config_name, args_parser=flags, args=arguments)
    if arguments.cfg:
        shown = (arguments.cfg, arguments.package, arguments.resolve)
        return partial(instance.show_cfg, config_name, overrides, *shown)
    if arguments.shell_completion:
        return partial(instance.shell_completion, config_name, overrides)
    if arguments.info:
        return partial(instance.show_info, arguments.info, config_name=config_name, overrides=overrides)
    if arguments.multirun or _sweeps_by_config(instance, config_name, arguments):
        return partial(instance.multirun, config_name, job, [*overrides, "hydra.mode=MULTIRUN"])
    return partial(instance.run, config_name, job, [*overrides, "hydra.mode=RUN"])
