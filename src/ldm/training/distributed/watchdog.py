"""Lightning's callback by which the ranks of a run watch each other (`Heartbeats`)."""

from typing import Any, cast

import lightning.pytorch as pl

from ldm.training.distributed.heartbeats import Heartbeats


class Watchdog(pl.Callback):
    """A rank that dies ends the others in seconds, with its name, also where they wait for it (`Heartbeats`).

    Args:
        silence: seconds without a word from a rank after which it is taken for dead.
    """

    def __init__(self, silence: float = 30.0) -> None:
        if silence <= 0:
            raise ValueError(f"silence must be above 0, got {silence}")
        self.silence = silence
        self._heartbeats: Heartbeats | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Connects the ranks."""
        if trainer.world_size > 1:
            strategy = trainer.strategy
            address = cast(Any, strategy).cluster_environment.main_address
            about = (trainer.global_rank, trainer.world_size, address, strategy.broadcast, self.silence)
            self._heartbeats = Heartbeats(*about)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Announces a regular end."""
        if self._heartbeats is not None:
            self._heartbeats.leave()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Notifies the other ranks, unless they are interrupted as well."""
        if self._heartbeats is not None and not isinstance(exception, KeyboardInterrupt):
            self._heartbeats.fail()
        self.teardown(trainer, pl_module, "fit")
