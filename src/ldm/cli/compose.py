"""Configs of a command as plain dicts, for notebooks, studies and tests."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def compose(
    config_name: str, overrides: Sequence[str] = (), config_dir: str | Path | None = None
) -> dict[str, Any]:
    """The config that `ldm-<config_name> OVERRIDES` runs, with interpolations resolved.

    Args:
        config_name: a primary config: train, sample, data, ...
        overrides: as on the command line. Without `paths.run=FOLDER`, that is where `hydra.run.dir` points.
        config_dir: folder with further options.

    Raises: HydraException or OmegaConfBaseException for a mistake in an override.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import open_dict, read_write

    from ldm.cli.config import plain
    from ldm.cli.hydra_internals import opened
    from ldm.cli.null_groups import replace_null_groups
    from ldm.cli.plain_keys import plain_keys
    from ldm.cli.resolvers import register_resolvers
    from ldm.cli.words import Words

    register_resolvers()
    folder = None if config_dir is None else str(config_dir)
    given = Words(
        config_name, replace_null_groups(config_name, overrides), folder, sweep=False
    ).as_overrides()
    with opened(config_name, folder, plain_keys(config_name)) as hydra:
        config = hydra.compose_config(config_name, given, RunMode.RUN, from_shell=False)
    state = HydraConfig.instance()
    before = state.cfg
    state.set_config(config)
    try:
        with read_write(config), read_write(config.hydra.runtime), open_dict(config):
            config.hydra.runtime.output_dir = os.path.abspath(config.hydra.run.dir)
            state.set_config(config)
            del config["hydra"]
        return dict(plain(config))
    finally:
        state.cfg = before
