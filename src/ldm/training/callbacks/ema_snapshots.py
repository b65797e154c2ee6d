"""Keeps a run's power-function averages as they were at moments of the training, for `ldm-ema`."""

import json
import time
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ldm.checkpoints.snapshots import SnapshotStore, Thinning, room_within
from ldm.training.callbacks.base import DiffusionModule, StepCallback
from ldm.utils.device import as_dtype


class EMASnapshots(StepCallback):
    """Writes the averages of `task.power_ema` each time that a number of images was seen, and at the end.

    A snapshot is on the disk before a checkpoint of the same step is begun, and a run that goes on removes
    those that are further than it is: it comes to the same files, bit for bit, as one never stopped. Where
    the budget has no room they are thinned (`ldm.checkpoints.snapshots.Thinning`). The training waits while
    one is written ("ema_stall", in seconds, is logged).

    Args:
        folder: of the snapshots.
        every_n_images: interval.
        budget_gigabytes: of all snapshots together, also while one is being written, in 10^9 bytes.
        dtype: of the numbers in them, fp16 or bf16.
    """

    def __init__(
        self, folder: str, every_n_images: int, budget_gigabytes: float, dtype: str = "fp16"
    ) -> None:
        if every_n_images < 1:
            raise ValueError(f"every_n_images must be at least 1, got {every_n_images}")
        if dtype not in ("fp16", "bf16"):
            raise ValueError(f"dtype must be fp16 or bf16, got {dtype}")
        self.store, self.dtype = SnapshotStore(Path(folder)), as_dtype(dtype)
        self.every_n_images, self.budget = every_n_images, 1e9 * budget_gigabytes
        self._thinning: Thinning | None = None  # None in a stage without such averages
        self._written: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds out how many have room; removes those of a run that went further than this one starts."""
        super().on_train_start(trainer, pl_module)
        self._thinning = self._written = None
        module = cast(DiffusionModule, pl_module)
        averages = getattr(module, "power_averages", None)
        if not averages:
            return
        tensors = [x for average in averages.values() for x in average.state_dict().values()]
        stored = [torch.empty(x.shape, dtype=self._stored_as(x), device="meta") for x in tensors]
        self._thinning = Thinning(
            every_n_images=self.every_n_images,
            batch_size=module.batch_size,
            room=room_within(self.budget, stored),
        )
        seen = int(trainer.global_step * module.batch_size)
        if trainer.is_global_zero:
            self.store.remove(lambda images: images > seen)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes one when it is time."""
        if self._thinning is None or not self.stepped(trainer):
            return
        if self._thinning.number(self._step * cast(DiffusionModule, pl_module).batch_size):
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the last step's, too."""
        if self._thinning is not None and self._written != self._step and self._step > 0:
            self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All ranks gather the averages, the first one writes them."""
        module = cast(DiffusionModule, pl_module)
        assert self._thinning is not None
        start, first, images = time.perf_counter(), trainer.is_global_zero, self._step * module.batch_size
        averages = {s: self._gathered(x, first) for s, x in module.power_averages.items()}
        self._written = self._step
        if not first:
            return
        assert module.metadata is not None
        config = json.loads(module.metadata["config"])
        config["training"] = config.get("training", {}) | {"steps": self._step, "images": images}
        nets = ("autoencoder", "base")
        about = {"config": config, **{n: v for n, v in module.metadata.items() if n in nets}}
        self.store.add(images, averages, about)
        thinning = self._thinning
        self.store.remove(lambda old: not thinning.keeps(old, images))
        stall = time.perf_counter() - start
        for logger in trainer.loggers:
            logger.log_metrics({"ema_stall": stall}, step=self._step)

    def _stored_as(self, x: Tensor) -> torch.dtype:
        return self.dtype if x.is_floating_point() else x.dtype

    def _gathered(self, average: nn.Module, keep: bool) -> dict[str, Tensor]:
        """Whole tensors on the CPU; where `keep` is false only their gathering."""
        whole = {}
        for name, x in average.state_dict().items():
            full = x.full_tensor() if isinstance(x, DTensor) else x
            if keep:
                whole[name] = full.to("cpu", self._stored_as(full)).contiguous()
        return whole
