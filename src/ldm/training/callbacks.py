"""What a run logs, draws and saves while it trains."""

import logging
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from ldm.utils.image_io import make_grid, save_png

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


class Metrics(pl.Callback):
    """Logs the mean loss, the mean loss of each timestep bin and images per second, with one monotonic step.

    The numbers are kept on the device and read every `log_every_n_steps` only. A loss that is NaN or
    infinite stops the run there, naming the step and the keys of the samples.

    Args:
        bins: timestep bins, equally wide.
    """

    def __init__(self, bins: int = 10) -> None:
        self.bins = bins
        self._rows: list[dict[str, Tensor]] = []
        self._images, self._watch = 0, 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collects a batch and, at the end of a window, logs it."""
        self._rows.append({k: outputs[k] for k in ("loss_per_sample", "t", "key") if outputs[k] is not None})
        if trainer.global_step % trainer.log_every_n_steps == 0 or trainer.global_step >= trainer.max_steps:
            self._log(trainer, pl_module)

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rows, self._rows = self._rows, []
        loss = torch.cat([row["loss_per_sample"] for row in rows]).float()
        if not bool(loss.isfinite().all()):
            keys = torch.cat([row["key"] for row in rows])[~loss.isfinite()].tolist()[:8]
            raise TrainingDiverged(
                f"loss is not finite in steps {trainer.global_step - len(rows) + 1}..{trainer.global_step}, "
                f"keys {keys}; lower the learning rate (optimizer.lr) or clip (trainer.gradient_clip_val)"
            )
        metrics = {"train/loss": loss.mean(), "lr": torch.tensor(trainer.optimizers[0].param_groups[0]["lr"])}
        if "t" in rows[0]:
            t = torch.cat([row["t"] for row in rows])
            last = pl_module.diffusion.schedule.num_train_timesteps
            which = (t / last * self.bins).long().clamp(0, self.bins - 1)
            for i in range(self.bins):
                if bool((which == i).any()):
                    metrics[f"loss_t/{i:02d}"] = loss[which == i].mean()
        for logger in trainer.loggers:
            logger.log_metrics({k: float(v) for k, v in metrics.items()}, step=trainer.global_step)


class SampleGrid(pl.Callback):
    """Draws fixed prompts from fixed seeds with the EMA weights at intervals: samples/step_*.png.

    Args:
        captions: the prompts.
        every_n_steps: interval; the last step is drawn too.
        seed: of the noise.
        columns: of the grid.
    """

    def __init__(self, captions: list[str], every_n_steps: int, seed: int = 0, columns: int = 8) -> None:
        self.captions, self.every_n_steps, self.seed, self.columns = (
            list(captions),
            every_n_steps,
            seed,
            columns,
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws when it is time."""
        step = trainer.global_step
        if not hasattr(pl_module, "sample_images") or not trainer.is_global_zero:
            return
        if step % self.every_n_steps == 0 or step == trainer.max_steps:
            grid = make_grid(pl_module.sample_images(self.captions, self.seed), columns=self.columns)
            folder = Path(trainer.default_root_dir) / "samples"
            folder.mkdir(parents=True, exist_ok=True)
            save_png(grid, folder / f"step_{step:08d}.png", {"step": str(step)})
            log_picture(trainer, "samples", grid, step)


class SaveOnInterrupt(pl.Callback):
    """Ctrl-C (or SIGTERM) sets a flag; at the end of the step the run is saved and stops."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals."""
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
        """Saves and stops if asked to."""
        if self._asked:
            trainer.save_checkpoint(
                Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt", weights_only=False
            )
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
