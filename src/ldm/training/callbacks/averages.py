"""Averages of the weights follow the optimizer."""

from typing import Any, cast

import lightning.pytorch as pl

from ldm.training.callbacks.base import StepCallback, TrainingModule


class FollowAverages(StepCallback):
    """Updates the module's averages once per optimizer step; it comes before callbacks that save or draw.

    A step that was skipped counts: the averages are functions of the images seen.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Updates the averages if the batch ended a step."""
        if self.stepped(trainer):
            module = cast(TrainingModule, pl_module)
            after = self._step * module.batch_size
            for average in module.averages:
                average.update(after - module.batch_size, after)
