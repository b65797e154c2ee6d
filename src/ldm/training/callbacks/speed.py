"""Speed of a run and the time it spends waiting for data."""

import logging
import resource
import sys
import time
from typing import Any, cast

import lightning.pytorch as pl
import torch

from ldm.training.callbacks.base import StepCallback, TrainingModule
from ldm.training.peaks import peak_flops

log = logging.getLogger(__name__)


def peak_memory(device: torch.device) -> float:
    """Largest memory held so far in GB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Speed(StepCallback):
    """Logs images/s, MFU, the wait for data per step and the memory, each over a window of steps.

    MFU is the FLOPs of the model (forward, twice that for backward, and the frozen nets' forward) over what
    the devices could do in that time in the run's precision (`ldm.training.peaks`, or `peak_tflops`). A run
    that does more has shown that the peak is higher: its rate is the peak from then on, and one line says so.

    Args:
        peak_tflops: of one device, in 10^12 FLOP/s; None: known or measured.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        if peak_tflops is not None and peak_tflops <= 0:
            raise ValueError(f"peak_tflops must be above 0, got {peak_tflops}")
        self.peak_tflops = peak_tflops

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts the model's FLOPs and starts the clock."""
        super().on_train_start(trainer, pl_module)
        device = trainer.strategy.root_device
        given = self.peak_tflops
        peak = given * 1e12 if given else peak_flops(device, str(trainer.precision))
        self._share = cast(TrainingModule, pl_module).flops_per_image() / (peak * trainer.world_size)
        self._first, self._start, self._waited = self._step, time.perf_counter(), self._wait(trainer)

    def _mfu(self, speed: float) -> float:
        """MFU at a number of images/s, 1 at most."""
        if (found := speed * self._share) > 1.0:
            log.warning("MFU is counted against a peak that the run exceeds by %.0f %%", 100 * (found - 1))
            self._share = 1.0 / speed
        return speed * self._share

    def _wait(self, trainer: pl.Trainer) -> float:
        return float(getattr(trainer.train_dataloader, "waited", 0.0))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs at the end of a window."""
        if not self.stepped(trainer) or self._step % cast(Any, trainer).log_every_n_steps:
            return
        now, waited, steps = time.perf_counter(), self._wait(trainer), self._step - self._first
        speed = cast(TrainingModule, pl_module).batch_size * steps / (now - self._start)
        metrics = {
            "images_per_second": speed,
            "mfu": self._mfu(speed),
            "data_wait": (waited - self._waited) / steps,
            "memory_gb": peak_memory(trainer.strategy.root_device),
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self._step)
        self._first, self._start, self._waited = self._step, now, waited
