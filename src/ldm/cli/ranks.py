"""Several processes of one run: they share its directory, and one of them writes to the terminal."""

import logging
from argparse import Namespace

from ldm.utils.distributed import launched


def rank_overrides(arguments: Namespace, command: str) -> list[str]:
    """Overrides with which a rank above 0 shares the run directory: it writes its own log and no config."""
    shows = arguments.hydra_help or arguments.cfg or arguments.info or arguments.shell_completion
    if launched()[0] == 0 or shows:
        return []
    return ["hydra.output_subdir=null", f"hydra.job.name={command}_rank_{launched()[0]}"]


def quieten_other_ranks() -> None:
    """Limit the console of ranks above 0 to warnings."""
    if launched()[0] > 0:
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                handler.setLevel(logging.WARNING)
