"""Ctrl-C, SIGTERM and SIGUSR1 end a run after a step, with its checkpoint, on all ranks together."""

import logging
import signal
import threading
from typing import Any

import lightning.pytorch as pl
import torch

from ldm.training.callbacks.base import StepCallback
from ldm.training.lightning_internals import keep_signal_handlers

log = logging.getLogger(__name__)


class StopOnSignal(StepCallback):
    """Ctrl-C, SIGTERM or SIGUSR1 ends the training after the current step, with its checkpoint.

    The handler only notes the signal: ranks get it at different places, or not all of them. At the end of a
    step they agree. Ctrl-C twice ends at once.

    Attributes:
        stopped_by: number of the signal that ended the run, the same on all ranks; 0 for none.
    """

    def __init__(self) -> None:
        self.stopped_by = self._asked = 0
        self._before: dict[int, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves out Lightning's handlers, one of which waits for the other ranks where it interrupts."""
        keep_signal_handlers(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals, which only a main thread can."""
        super().on_train_start(trainer, pl_module)
        self.stopped_by = self._asked = 0
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if number == self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = max(self._asked, int(number))
        log.info("%s: stopping after this step", signal.Signals(number).name)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the run if any rank was asked to."""
        if not self.stepped(trainer):
            return
        asked = torch.tensor(self._asked, device=trainer.strategy.root_device)
        self.stopped_by = int(trainer.strategy.reduce(asked, reduce_op="max"))
        trainer.should_stop = trainer.should_stop or self.stopped_by > 0

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back; only now, so that another one cannot fall into the saving."""
        self._give_back()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
