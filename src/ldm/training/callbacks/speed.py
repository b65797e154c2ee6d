"""How fast a run goes, and what it waits for."""

import resource
import sys
import time
from typing import Any, cast

import lightning.pytorch as pl
import torch

from ldm.training.callbacks.base import StepCallback, TrainingModule

# Dense bf16 tensor-core peaks in FLOP/s, from NVIDIA's data sheets; the first name that fits counts.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}


def peak_flops(device: torch.device) -> float:
    """Most FLOP/s of a device: what its maker says of a known GPU, else of a few products of matrices.

    Args:
        device: of the training.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peak in PEAKS.items():
            if known in name:
                return peak
    return measured_flops(device)


@torch.no_grad()
def measured_flops(device: torch.device, size: int = 1024, repeats: int = 5) -> float:
    """FLOP/s of the fastest of some float32 products of square matrices."""
    a = torch.ones(size, size, device=device)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product = a @ a
        float(product[0, 0])  # waits for it
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def peak_memory(device: torch.device) -> float:
    """Largest memory held so far in GB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Speed(StepCallback):
    """Logs images/s, MFU, the wait for data per step and the memory, each over a window of steps.

    MFU is the FLOPs of the model (forward, twice that for backward, and the frozen nets' forward) over what
    the devices could do in that time (`peak_flops`, or `peak_tflops` if given).

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
        peak = self.peak_tflops * 1e12 if self.peak_tflops else peak_flops(device)
        self._share = cast(TrainingModule, pl_module).flops_per_image() / (peak * trainer.world_size)
        self._first, self._start, self._waited = self._step, time.perf_counter(), self._wait(trainer)

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
            "mfu": speed * self._share,
            "data_wait": (waited - self._waited) / steps,
            "memory_gb": peak_memory(trainer.strategy.root_device),
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self._step)
        self._first, self._start, self._waited = self._step, now, waited
