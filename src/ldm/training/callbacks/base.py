"""A callback that acts once per optimizer step."""

import lightning.pytorch as pl


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
