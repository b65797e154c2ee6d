"""What a run logs, draws and saves while it trains."""

import logging
import signal
import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ldm.utils.image_io import labelled_grid, make_grid, save_png

log = logging.getLogger(__name__)


class TrainingDiverged(RuntimeError):
    """The loss is NaN or infinite."""


def log_picture(trainer: pl.Trainer, name: str, picture: Image.Image, step: int) -> None:
    """Sends a picture to the loggers that show pictures: W&B and TensorBoard."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key=name, images=[picture], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")


class StepCallback(pl.Callback):
    """A callback that acts once per optimizer step, however many batches the step accumulates."""

    _step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes where the run starts or goes on."""
        self._step = trainer.global_step

    def stepped(self, trainer: pl.Trainer) -> bool:
        """Whether the batch that has just ended made an optimizer step; to be asked once a batch."""
        before, self._step = self._step, trainer.global_step
        return self._step != before


class Metrics(StepCallback):
    """Logs the mean loss, the mean loss of each timestep bin and the learning rate, with one monotonic step.

    The means are over all samples of a window of `log_every_n_steps`, on all ranks. The numbers stay on the
    device and are read once a window. A loss that is NaN or infinite stops the run there, naming the step and
    the keys of the samples; no checkpoint is written between that step and its discovery.

    Args:
        bins: timestep bins, equally wide.
    """

    def __init__(self, bins: int = 10) -> None:
        self.bins = bins
        self._rows: list[tuple[int, dict[str, Tensor]]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collects a batch and, at the end of a window, logs it."""
        stepped = self.stepped(trainer)
        row = {k: outputs[k] for k in ("loss_per_sample", "t", "key") if outputs[k] is not None}
        self._rows.append((self._step + (not stepped), row))
        end = self._step % trainer.log_every_n_steps == 0 or self._step == trainer.max_steps
        if stepped and end:
            self._log(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuses to save what a loss in the current window has spoilt."""
        for step, row in self._rows:
            if not bool(row["loss_per_sample"].isfinite().all()):
                self._stop(step, row)

    def _stop(self, step: int, row: dict[str, Tensor]) -> None:
        keys = row["key"][~row["loss_per_sample"].isfinite()].tolist()[:8]
        raise TrainingDiverged(
            f"loss is not finite in step {step}, keys {keys}; "
            "lower the learning rate (optimizer.lr) or clip (trainer.gradient_clip_val)"
        )

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rows = self._rows
        loss = torch.cat([row["loss_per_sample"] for _, row in rows]).float()
        member = torch.ones_like(loss)[:, None]  # (n, 1): the whole window, then one column a bin
        if "t" in rows[0][1]:
            t = torch.cat([row["t"] for _, row in rows]) / pl_module.diffusion.schedule.num_train_timesteps
            which = (t * self.bins).long().clamp(0, self.bins - 1)
            member = torch.cat([member, F.one_hot(which, self.bins).float()], dim=1)
        bad = (~loss.isfinite()).sum()[None].float()
        sums = torch.cat([loss.nan_to_num(0.0, 0.0, 0.0) @ member, member.sum(0), bad])
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        values = sums.tolist()  # the only wait for the device
        if values[-1] > 0:
            self.on_save_checkpoint(trainer, pl_module, {})
            raise TrainingDiverged(f"loss is not finite on another rank, up to step {self._step}")
        self._rows = []
        names = ["train/loss", *(f"loss_t/{i:02d}" for i in range(self.bins))][: member.shape[1]]
        totals, counts = values[: len(names)], values[len(names) : -1]
        metrics = {name: a / n for name, a, n in zip(names, totals, counts, strict=True) if n > 0}
        metrics["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self._step)


class SampleGrid(StepCallback):
    """Draws fixed prompts from fixed seeds with the EMA weights at intervals: samples/step_*.png.

    W&B and TensorBoard get the same images with the prompts below them.

    Args:
        captions: the prompts.
        every_n_steps: interval; the last step is drawn too.
        seed: of the noise.
        columns: of the grid.
    """

    def __init__(self, captions: list[str], every_n_steps: int, seed: int = 0, columns: int = 8) -> None:
        if every_n_steps < 1:
            raise ValueError(
                f"every_n_steps must be at least 1, got {every_n_steps} (callbacks.samples.every_n_steps)"
            )
        self.captions, self.every_n_steps = list(captions), every_n_steps
        self.seed, self.columns = seed, columns

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws when it is time."""
        if not self.stepped(trainer) or not self.captions or not trainer.is_global_zero:
            return
        due = self._step % self.every_n_steps == 0 or self._step == trainer.max_steps
        if due and hasattr(pl_module, "sample_images"):
            self._draw(trainer, pl_module.sample_images(self.captions, self.seed))

    def _draw(self, trainer: pl.Trainer, images: Tensor) -> None:
        folder = Path(trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        about = {"step": str(self._step), "seed": str(self.seed), "prompts": "\n".join(self.captions)}
        save_png(make_grid(images, columns=self.columns), folder / f"step_{self._step:08d}.png", about)
        if any(isinstance(logger, WandbLogger | TensorBoardLogger) for logger in trainer.loggers):
            picture = labelled_grid(images, self.captions, columns=self.columns)
            log_picture(trainer, "samples", picture, self._step)


class SaveOnInterrupt(StepCallback):
    """Ctrl-C (or SIGTERM) ends the run after the current step with a checkpoint; twice, at once.

    The checkpoint is written when training has ended: during `on_train_batch_end` of a callback the module's
    own hook, and with it the EMA, is still to come.

    Attributes:
        interrupted: whether the run was ended so.
    """

    def __init__(self) -> None:
        self.interrupted = self._asked = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals, which only a main thread can."""
        super().on_train_start(trainer, pl_module)
        self.interrupted = self._asked = False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        log.info("stopping after this step (again: at once)")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the run if any rank was asked to."""
        if self.stepped(trainer) and trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            self.interrupted = trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves if the run was interrupted, then gives the signals back."""
        if self.interrupted:
            path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            trainer.save_checkpoint(path, weights_only=False)
            log.info("saved step %d in %s", trainer.global_step, path)
        self._give_back()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
