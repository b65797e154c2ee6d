"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end a run after a step, with its checkpoint, on all ranks together."""

import contextlib
import logging
import os
import signal
import sys
import threading
from typing import Any, cast

import lightning.pytorch as pl
import torch

from ldm.training.callbacks.base import StepCallback
from ldm.training.callbacks.checkpoints import Checkpoints
from ldm.training.lightning_internals import keep_signal_handlers

log = logging.getLogger(__name__)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def _leave_terminal() -> None:
    """Points streams to a terminal that has gone elsewhere: writing to it is an error from now on."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if os.isatty(stream.fileno()):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class StopOnSignal(StepCallback):
    """Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 ends the training after the current step, with its checkpoint.

    The handler only notes the signal: ranks get it at different places, or not all of them. At the end of a
    step they agree. Ctrl-C twice ends at once. SIGHUP, the end of a terminal, is ignored under nohup.

    Attributes:
        stopped_by: number of the signal that ended the run, the same on all ranks; 0 for none.
    """

    def __init__(self) -> None:
        self.stopped_by = self._asked = 0
        self._before: dict[int, Any] = {}
        self._trainer: pl.Trainer | None = None
        self._start = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves out Lightning's handlers, one of which waits for the other ranks where it interrupts."""
        keep_signal_handlers(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals, which only a main thread can."""
        super().on_train_start(trainer, pl_module)
        self.stopped_by = self._asked = 0
        self._trainer, self._start = trainer, trainer.global_step
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if number == self._asked == signal.SIGINT:
            log.warning("SIGINT again: ending at once; %s", self._lost())
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            _leave_terminal()
        self._asked = max(self._asked, int(number))
        log.info("%s: stopping after this step", signal.Signals(number).name)
        if number == signal.SIGINT:
            log.info("ctrl-C again ends at once: %s", self._lost())

    def _lost(self) -> str:
        """Steps that are lost if the run ends at once; a checkpoint that was begun is finished."""
        assert self._trainer is not None
        callbacks = cast(Any, self._trainer).callbacks
        saved = max((c.saved or 0 for c in callbacks if isinstance(c, Checkpoints)), default=0)
        last = max(saved, self._start)
        if (step := self._trainer.global_step) <= last:
            return f"no finished step is lost, the run is saved up to step {last}"
        return f"steps {last + 1} to {step}, made since the last checkpoint, are lost"

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
