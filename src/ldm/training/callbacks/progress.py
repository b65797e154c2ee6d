"""Progress with an ETA: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any, cast

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ldm.training.callbacks.base import TrainingModule
from ldm.utils.duration import duration

FIRST_SECONDS = 3.0  # a first line, and with it an ETA, comes early


class TrainingProgress(pl.Callback):
    """Shows stage, step, mean loss since the last look, images/s and time left.

    Args:
        every_seconds: interval of plain lines where the output is no terminal.
    """

    def __init__(self, every_seconds: float = 20.0) -> None:
        self.every_seconds = every_seconds
        self._bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the bar and the clock."""
        module = cast(TrainingModule, pl_module)
        self._stage, self._batch_size = module.stage, module.batch_size
        self._start = self._shown = time.perf_counter()
        self._first = trainer.global_step
        self._loss, self._batches = 0.0, 0
        if trainer.is_global_zero and sys.stderr.isatty():
            columns = ("[bold]{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[about]}")
            parts = [TextColumn(c) if isinstance(c, str) else c for c in columns]
            self._bar = Progress(
                *parts, TimeElapsedColumn(), "ETA", TimeRemainingColumn(), console=Console(stderr=True)
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self._stage, total=trainer.max_steps, completed=self._first, about=""
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Shows where the run is, at most four times a second."""
        now, step = time.perf_counter(), trainer.global_step
        if trainer.is_global_zero:  # accumulated on the device: reading it would wait for the step
            self._loss, self._batches = self._loss + outputs["loss"], self._batches + 1
        interval = 0.25 if self._bar else self.every_seconds
        if self._shown == self._start:
            interval = min(interval, FIRST_SECONDS)
        if step == self._first or (now - self._shown < interval and step != trainer.max_steps):
            return
        self._shown = now
        if trainer.is_global_zero:
            # Lightning hands out the loss divided by the number of accumulated batches.
            mean = float(self._loss) / self._batches * trainer.accumulate_grad_batches
            self._loss, self._batches = 0.0, 0
            self._show(trainer, mean, now)

    def _show(self, trainer: pl.Trainer, loss: float, now: float) -> None:
        step, total = trainer.global_step, trainer.max_steps
        speed = (step - self._first) / (now - self._start)
        about = f"loss {loss:.3f}  {speed * self._batch_size:.0f} img/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, about=about)
        else:
            left = duration((total - step) / speed)
            print(
                f"{self._stage}: step {step}/{total} {step / total:4.0%}  {about}  ETA {left}",
                file=sys.stderr,
                flush=True,
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Closes the bar."""
        self.on_train_end(trainer, pl_module)
