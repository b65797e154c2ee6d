"""A callback that gives a fault its time: ranks wait at a step until they are let go."""

import os
import time
from pathlib import Path

import lightning.pytorch as pl


class Hold(pl.Callback):
    """Has ranks wait at the start of a step until a file `go_STEP` is there.

    Args:
        folder: of these files; each rank notes its step, host and process there.
        steps: step -> the ranks that wait.
    """

    def __init__(self, folder: str, steps: dict[int, list[int]]) -> None:
        self.folder, self.steps = Path(folder), steps

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        rank, step = trainer.global_rank, trainer.global_step
        note = self.folder / f".{rank}"
        note.write_text(f"{step} {os.uname().nodename} {os.getpid()}")
        note.replace(self.folder / str(rank))
        while rank in self.steps.get(step, []) and not (self.folder / f"go_{step}").exists():
            time.sleep(0.05)
