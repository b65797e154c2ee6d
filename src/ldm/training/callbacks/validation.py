"""Validation loss that is comparable from step to step: the same samples, noise and times each time."""

from typing import Any, cast

import lightning.pytorch as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ldm.diffusion import random
from ldm.evaluation.intervals import stratified_interval
from ldm.training.callbacks.base import DiffusionModule, StepCallback
from ldm.training.distributed.ranks import share


def chosen(samples: dict[str, Any], row: Int64[Tensor, " b"], device: torch.device) -> dict[str, Any]:
    """Some rows of a batch, on a device.

    Args:
        samples: name -> tensor or list of n.
        row: in 0 .. n - 1, (b,).
        device: of the tensors.
    """
    return {
        name: value[row].to(device) if isinstance(value, Tensor) else [value[i] for i in row.tolist()]
        for name, value in samples.items()
    }


class ValidationLoss(StepCallback):
    """Logs the loss of the EMA weights on samples held out, with a 95% interval, at times and at the end.

    Draw k takes its time from stratum k mod H of the training's distribution of times, and one of the
    samples, which come in turns, in an order drawn for each turn. Sample, noise and time are functions of
    (seed, k): two steps, and two runs, differ by their weights only. The interval is that of the draws: of
    another choice of samples, noise and times. It is too wide for the difference of two runs, which share
    them: see `ldm.evaluation.intervals.paired_difference`.

    Args:
        every_n_steps: interval.
        draws: number of draws, a multiple of `strata` and at least twice it.
        strata: number of strata of the times.
        seed: of the draws.
        batch_size: draws at once.
    """

    def __init__(
        self, every_n_steps: int, draws: int = 256, strata: int = 32, seed: int = 0, batch_size: int = 32
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        if strata < 1 or draws % strata or draws < 2 * strata:
            raise ValueError(
                f"draws must be a multiple of strata={strata} and at least twice it, got {draws}"
            )
        self.every_n_steps, self.draws, self.strata = every_n_steps, draws, strata
        self.seed, self.batch_size = seed, batch_size
        self._samples: dict[str, Any] | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures when it is time."""
        due = self.stepped(trainer) and (
            self._step % self.every_n_steps == 0 or self._step == trainer.max_steps
        )
        if not due or not hasattr(pl_module, "validation_losses"):
            return
        if self._samples is None:
            self._samples = cast(Any, trainer).datamodule.validation_samples(self.draws)
        loss = self._losses(pl_module, trainer.global_rank, trainer.world_size)
        if trainer.world_size > 1:
            loss = trainer.strategy.reduce(loss, reduce_op="sum")
        found = stratified_interval(loss.cpu(), torch.arange(self.draws) % self.strata, self.strata)
        metrics = {"val/loss": found.mean, "val/loss_low": found.low, "val/loss_high": found.high}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self._step)

    def _rows(self, draw: Int64[Tensor, " b"], n: int) -> Int64[Tensor, " b"]:
        """The sample of each draw."""
        turns = {
            turn: random.permutation(self.seed, "validation", n, turn) for turn in set((draw // n).tolist())
        }
        return torch.stack([turns[k // n][k % n] for k in draw.tolist()])

    def _losses(self, module: pl.LightningModule, rank: int, world: int) -> Float[Tensor, " n"]:
        """The loss of each draw; 0 for those of the other ranks."""
        assert self._samples is not None
        n = len(self._samples["caption"])
        losses = torch.zeros(self.draws, device=module.device)
        for part, counts in share(-(-self.draws // self.batch_size), rank, world):
            start = part * self.batch_size
            draw = torch.arange(start, min(start + self.batch_size, self.draws))
            row = self._rows(draw, n)
            u = random.uniform(self.seed, "validation_time", draw, 0)
            loss = cast(DiffusionModule, module).validation_losses(
                chosen(self._samples, row, module.device),
                ((draw % self.strata + u) / self.strata).to(module.device),
                draw.to(module.device),
                self.seed,
            )
            if counts:
                losses[draw.to(losses.device)] = loss
        return losses
