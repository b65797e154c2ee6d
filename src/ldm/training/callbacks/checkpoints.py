"""Checkpoints while a run goes on: a copy of the state, written beside the training."""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils._pytree import tree_map

from ldm.checkpoints.store import CheckpointStore
from ldm.diffusion import random
from ldm.training.callbacks.base import StepCallback
from ldm.training.lightning_internals import restart_loops, state_of
from ldm.utils.errors import UserError


class Background:
    """A thread for one job at a time; an error of a job is raised where the next one is waited for."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._job: Future[Any] | None = None

    def wait(self) -> None:
        """Waits for the job."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def start(self, job: Callable[[], Any]) -> None:
        """Starts a job after the one before."""
        self.wait()
        self._job = self._thread.submit(job)

    def close(self) -> None:
        """Waits for the job and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()


def copied(state: Any) -> Any:
    """The state with copies, on the CPU, of its tensors."""
    return tree_map(
        lambda x: x.detach().to("cpu", copy=True) if isinstance(x, torch.Tensor) else x,
        state,
    )


class Checkpoints(StepCallback):
    """Writes checkpoints at intervals and at the end of the training, as `ldm.checkpoints.store` has them.

    The training waits only while the state is copied ("checkpoint_stall", in seconds, is logged); a thread
    writes the copy, reads it back and then removes the oldest. If the one before is not written yet, the
    training waits for it. Of a sharded state (FSDP) all ranks write their part while the training waits; the
    thread then hashes the files, names the checkpoint and reads it back.

    Args:
        folder: of the checkpoints.
        every_n_steps: interval.
        keep: how many of the newest stay.
        milestone_every: steps whose multiples stay for good; None: none do.

    Attributes:
        saved: step of the newest checkpoint that was begun; None before the first.
    """

    def __init__(
        self, folder: str, every_n_steps: int, keep: int = 2, milestone_every: int | None = None
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.store = CheckpointStore(Path(folder), keep, milestone_every)
        self.every_n_steps = every_n_steps
        self.saved: int | None = None
        self._background: Background | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Readies the thread."""
        super().on_train_start(trainer, pl_module)
        self._background, self.saved = Background(), None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the version of the random draws."""
        checkpoint["draws"] = random.VERSION

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Makes the loops begin with a step's first batch, also when more or fewer are accumulated now.

        Raises: UserError for a checkpoint of a release whose random draws were others.
        """
        if (version := checkpoint.get("draws", 1)) != random.VERSION:
            raise UserError(
                f"the checkpoint's random draws are of version {version}, those of this release of version "
                f"{random.VERSION}: the order of the data and the samples held out would change; start a new "
                "run from its weights"
            )
        restart_loops(checkpoint, trainer.accumulate_grad_batches)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time."""
        if self.stepped(trainer) and self._step % self.every_n_steps == 0:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        assert self._background is not None
        start, step = time.perf_counter(), trainer.global_step
        self._background.wait()
        for logger in trainer.loggers:  # what was logged up to here is then at least as safe
            logger.save()
        strategy = trainer.strategy
        state = state_of(trainer)
        if isinstance(strategy, ModelParallelStrategy):
            self._save_sharded(trainer, state, step)
        elif trainer.is_global_zero:
            state = copied(state)
            self._background.start(lambda: self.store.save(step, state))
        self.saved = step
        stall = time.perf_counter() - start
        for logger in trainer.loggers:
            logger.log_metrics({"checkpoint_stall": stall}, step=step)

    def _save_sharded(self, trainer: pl.Trainer, state: dict[str, Any], step: int) -> None:
        """All ranks write their shards; the first one then makes a checkpoint of them."""
        assert self._background is not None
        shared = self.store.folder / f".shards_{step:08d}"
        if trainer.is_global_zero:  # after its thread, which clears up, too
            shutil.rmtree(shared, ignore_errors=True)  # of a run killed here, perhaps of more ranks
        trainer.strategy.barrier()
        trainer.strategy.save_checkpoint(state, shared)
        trainer.strategy.barrier()

        def fill(folder: Path) -> dict[str, dict[str, Any]]:
            for path in list(shared.iterdir()):
                path.rename(folder / path.name)
            return {}

        if trainer.is_global_zero:
            self._background.start(lambda: self.store.add(step, fill, leave=shared.name))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the last step, too, and waits until all is written."""
        assert self._background is not None
        if self.saved != trainer.global_step and trainer.global_step > 0:
            self._save(trainer)
        self._background.close()
        trainer.strategy.barrier()  # what the first rank's thread has written is there for all

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Waits until what was begun is written."""
        if self._background is not None:
            self._background.close()
