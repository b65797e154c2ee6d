"""Sample grids of fixed prompts and seeds, drawn while a model trains."""

from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from torch import Tensor

from ldm.training.callbacks.base import DiffusionModule, StepCallback
from ldm.training.loggers.tensorboard import TensorBoardLog
from ldm.utils.image_io import labelled_grid, make_grid, save_png


def log_picture(trainer: pl.Trainer, name: str, picture: Image.Image, step: int) -> None:
    """Sends a picture to the loggers that show pictures: W&B and TensorBoard."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger | TensorBoardLog):
            logger.log_image(key=name, images=[picture], step=step)


class SampleGrid(StepCallback):
    """Draws fixed prompts from fixed seeds with the EMA weights at intervals: samples/step_*.png.

    W&B and TensorBoard get the same images with the prompts below them.

    Args:
        captions: the prompts, or the number of images of an unconditional model.
        every_n_steps: interval; the last step is drawn too.
        seed: of the noise.
        columns: of the grid.
    """

    def __init__(
        self, captions: list[str] | int, every_n_steps: int, seed: int = 0, columns: int = 8
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.captions, self.every_n_steps = captions, every_n_steps
        self.seed, self.columns = seed, columns

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws when it is time."""
        if not self.stepped(trainer) or not self.captions:
            return
        due = self._step % self.every_n_steps == 0 or self._step == trainer.max_steps
        if due and hasattr(pl_module, "sampler"):
            sampler = cast(DiffusionModule, pl_module).sampler
            images = sampler.images(self.captions, self.seed)  # all ranks sample
            if trainer.is_global_zero:
                self._draw(trainer, images)

    def _draw(self, trainer: pl.Trainer, images: Tensor) -> None:
        folder = Path(trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        prompts = [""] * self.captions if isinstance(self.captions, int) else list(self.captions)
        about = {"step": str(self._step), "seed": str(self.seed), "prompts": "\n".join(prompts)}
        save_png(make_grid(images, columns=self.columns), folder / f"step_{self._step:08d}.png", about)
        if any(isinstance(logger, WandbLogger | TensorBoardLog) for logger in trainer.loggers):
            picture = labelled_grid(images, prompts, columns=self.columns)
            log_picture(trainer, "samples", picture, self._step)
