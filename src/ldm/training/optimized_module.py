"""A LightningModule with one optimizer, a learning rate in images, and steps that are clipped or dropped."""

from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.training.optim import LRSchedule, clip_or_drop, optimizer_and_schedule, parameters_of


class OptimizedModule(pl.LightningModule):
    """Base of modules whose steps Lightning makes; a step with a non-finite loss is dropped on all ranks.

    Args:
        optimizer: maps parameters to an optimizer.
        lr_schedule: learning-rate factor of the images seen; None keeps the rate.
        batch_size: global batch size, images per step.

    Attributes:
        gradient_norm: norm of the gradients of the last step, before clipping.
        skipped: True if the last step was dropped.
    """

    def __init__(
        self, optimizer: Callable[..., Optimizer], lr_schedule: LRSchedule | None, batch_size: int
    ) -> None:
        super().__init__()
        self._optimizer, self._lr_schedule, self.batch_size = optimizer, lr_schedule, batch_size
        self.gradient_norm, self.skipped = torch.tensor(0.0), False
        self._finite = torch.tensor(True)  # all losses of the step begun are finite

    def parameters_to_train(self) -> Iterator[nn.Parameter]:
        """Parameters of the optimizer."""
        return self.parameters()

    def watch(self, losses: Tensor) -> None:
        """Records whether the losses of a part of the step are finite, without waiting for a GPU."""
        self._finite = self._finite.to(losses.device) & losses.detach().isfinite().all()

    def configure_optimizers(self) -> Any:
        """The optimizer with its schedule, in images."""
        return optimizer_and_schedule(
            self._optimizer, self.parameters_to_train(), self._lr_schedule, self.batch_size
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the norm of all gradients, or drops a step that is not finite, on all ranks.

        Lightning's own clipping refuses fused optimizers in bf16-mixed.
        """
        agree = self.trainer.strategy.reduce_boolean_decision
        self.gradient_norm, self.skipped = clip_or_drop(
            parameters_of(optimizer), gradient_clip_val, bool(self._finite), agree
        )
        self._finite = torch.tensor(True)
