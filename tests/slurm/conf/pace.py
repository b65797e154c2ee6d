"""A callback that gives a fault time to happen: it slows the steps, and notes where each rank is."""

import os
import time
from pathlib import Path

import lightning.pytorch as pl


class Pace(pl.Callback):
    """Sleeps in each batch; a rank that lags sleeps more, so the others wait for it in a collective.

    Args:
        folder: gets a file for each rank: step, host and process.
        seconds: of each batch.
        lag: more seconds, of the last rank.
    """

    def __init__(self, folder: str, seconds: float, lag: float) -> None:
        self.folder, self.seconds, self.lag = Path(folder), seconds, lag

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / str(trainer.global_rank)
        place.with_suffix(".new").write_text(f"{trainer.global_step} {os.uname().nodename} {os.getpid()}")
        place.with_suffix(".new").replace(place)
        last = trainer.global_rank == trainer.world_size - 1
        time.sleep(self.seconds + (self.lag if last else 0.0))
