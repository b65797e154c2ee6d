"""Every use of an interface that Lightning does not publish; written for Lightning 2.6."""

import logging
import warnings
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import ModelParallelStrategy


def quieten_lightning() -> None:
    """Leaves out Lightning's messages on what is so by design; they are recognised by their wording."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        # the EMA twin is always in eval mode
        r"Found \d+ module\(s\) in eval mode",
        # batches of tensors in memory need no worker processes
        r"The '\w+' does not have many workers",
        # a machine of a cluster on which a run is not a job
        "The `srun` command is available",
        # the loaders start at the step's batch
        "You're resuming from a checkpoint that ended before the epoch",
    ):
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.pytorch")


def keep_signal_handlers(trainer: pl.Trainer) -> None:
    """Leaves the handlers of signals to the run.

    Lightning's interrupt at once, and one of them waits for ranks that may be elsewhere. There is no option
    to turn them off.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def state_of(trainer: pl.Trainer) -> dict[str, Any]:
    """The state of the training that `Trainer.save_checkpoint` would write, in memory.

    The public method writes while the training waits; here a thread writes a copy.
    """
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def restart_loops(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Sets the loops' counts of batches in a checkpoint to step x accumulate.

    They count batches, so a run that is resumed with another accumulation would begin inside a step.

    Args:
        checkpoint: as Lightning has loaded it; changed in place.
        accumulate: batches per step from now on.
    """
    batches = checkpoint["global_step"] * accumulate
    loop = checkpoint["loops"]["fit_loop"]
    for name in ("total", "current"):
        progress = loop["epoch_loop.batch_progress"][name]
        for key in progress:
            progress[key] = batches
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"]


def set_mesh(strategy: ModelParallelStrategy, copies: int, ranks: int) -> None:
    """Sets the device mesh of a strategy that is not set up yet: copies x ranks of a copy.

    The constructor takes both numbers, but how many ranks there are is known only later.
    """
    strategy._data_parallel_size, strategy._tensor_parallel_size = copies, ranks
