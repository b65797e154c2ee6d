"""A callback that acts once per optimizer step, and the attributes of modules that callbacks read."""

from typing import Any, Protocol

import lightning.pytorch as pl
from torch import Tensor, nn

from ldm.diffusion.process import Diffusion
from ldm.generation import Sampler
from ldm.utils.ema import MovingAverage


class TrainingModule(Protocol):
    """Attributes of a module in training that callbacks read; torch types each of them as Tensor | Module."""

    stage: str
    batch_size: int
    averages: list[MovingAverage]
    gradient_norm: Tensor

    def flops_per_image(self) -> int:
        """FLOPs of training on an image."""


class DiffusionModule(TrainingModule, Protocol):
    """Further attributes of a diffusion model in training."""

    diffusion: Diffusion
    metadata: dict[str, str] | None

    @property
    def power_averages(self) -> dict[float, nn.ModuleDict]:
        """The averages over power functions, by their sigma_rel."""

    @property
    def sampler(self) -> Sampler:
        """A sampler of the EMA weights."""

    def validation_losses(self, samples: dict[str, Any], u: Tensor, draw: Tensor, seed: int) -> Tensor:
        """Losses of the EMA weights for numbered draws."""


class StepCallback(pl.Callback):
    """A callback that acts once per optimizer step, however many batches the step accumulates."""

    _step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes where the run starts or goes on."""
        self._step = trainer.global_step

    def stepped(self, trainer: pl.Trainer) -> bool:
        """True if the batch that has just ended made an optimizer step; to be called once per batch."""
        before, self._step = self._step, trainer.global_step
        return self._step != before
