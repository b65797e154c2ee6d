"""What a run says of its training: losses, gradients, steps that were skipped."""

import json
import logging
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from ldm.training.callbacks.base import DiffusionModule, StepCallback, TrainingModule
from ldm.utils.distributed import initialised, is_main
from ldm.utils.errors import Failure
from ldm.utils.files import write_text

log = logging.getLogger(__name__)

UNIT = 2.0**28  # sums are whole numbers of 1 / UNIT: their order, and so the number of ranks, leaves no trace
RECENT = 1000


class TrainingDiverged(Failure):
    """Too many steps had a loss or gradient that is NaN or infinite."""


def whole(x: Tensor) -> Tensor:
    """Numbers in whole units, int64; 0 for what is not finite."""
    return (x.detach().double().nan_to_num(0.0, 0.0, 0.0) * UNIT).round().long()


class Metrics(StepCallback):
    """Logs the mean loss, the mean loss of each timestep bin, the gradient norm and the learning rate.

    The means are over all samples of a window of `log_every_n_steps`, on all ranks; a checkpoint holds the
    window begun, so the curve of a resumed run is that of one never stopped, bit for bit. A step whose loss
    or gradient is NaN or infinite is skipped by the module (weights and optimizer stay), left out of the
    means, counted ("skipped_steps") and written, with the keys of its samples, to bad_steps.jsonl.

    Args:
        bins: timestep bins, equally wide.
        max_bad_steps: the run stops when more of the last 1000 steps were skipped.
    """

    def __init__(self, bins: int = 10, max_bad_steps: int = 20) -> None:
        if max_bad_steps < 0:
            raise ValueError(f"max_bad_steps must be at least 0, got {max_bad_steps}")
        self.bins, self.max_bad_steps = bins, max_bad_steps
        self._window: Tensor | None = None  # (2, 2 + bins) int64: sums and counts of loss, norm, each bin
        self._step_sums: Tensor | None = None  # of the batches of a step not yet done
        self._rows: list[dict[str, Tensor]] = []  # keys and losses of these batches
        self._skipped, self._recent = 0, list[int]()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the bad steps of a run that went further than the checkpoint it goes on from."""
        super().on_train_start(trainer, pl_module)
        path = self._bad_steps(trainer)
        if trainer.is_global_zero and path.is_file():
            lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= self._step]
            write_text(path, "".join(f"{line}\n" for line in lines))

    def state_dict(self) -> dict[str, Any]:
        """The window begun and the count of skipped steps."""
        window = None if self._window is None else self._summed(self._window).tolist()
        return {"window": window, "skipped": self._skipped, "recent": self._recent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with a window; the sums of all ranks become the first one's."""
        self._skipped, self._recent = state_dict["skipped"], list(state_dict["recent"])
        window = state_dict["window"]
        self._window = torch.tensor(window, dtype=torch.int64) if window is not None and is_main() else None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds a batch and, at the end of a window, logs it."""
        sums = self._sums_of(outputs, pl_module)
        self._step_sums = sums if self._step_sums is None else self._step_sums + sums
        self._rows.append({name: outputs[name] for name in ("key", "loss_per_sample")})
        if not self.stepped(trainer):
            return
        if pl_module.skipped:
            self._note_bad_step(trainer)
        else:
            if trainer.is_global_zero:  # the norm is the same on all ranks
                self._step_sums[0, 1] += whole(cast(TrainingModule, pl_module).gradient_norm)
                self._step_sums[1, 1] += 1
            before = 0 if self._window is None else self._window.to(sums.device)
            self._window = before + self._step_sums
        self._step_sums, self._rows = None, []
        if self._step % cast(Any, trainer).log_every_n_steps == 0 or self._step == trainer.max_steps:
            self._log(trainer)

    def _sums_of(self, outputs: dict[str, Any], pl_module: pl.LightningModule) -> Tensor:
        """Sums and counts of a batch, (2, 2 + bins)."""
        loss = outputs["loss_per_sample"]
        values = torch.stack([whole(loss), torch.ones_like(loss, dtype=torch.int64)])  # (2, b)
        sums = values.new_zeros(2, 2 + self.bins)
        sums[:, 0] = values.sum(1)
        if outputs["t"] is not None:
            t = outputs["t"] / cast(DiffusionModule, pl_module).diffusion.schedule.num_train_timesteps
            sums.index_add_(1, 2 + (t * self.bins).long().clamp(0, self.bins - 1), values)
        return sums

    def _summed(self, sums: Tensor) -> Tensor:
        """The sums of all ranks."""
        if initialised():
            sums = sums.clone()
            torch.distributed.all_reduce(sums)
        return sums

    def _log(self, trainer: pl.Trainer) -> None:
        device = trainer.strategy.root_device
        window = torch.zeros(2, 2 + self.bins, dtype=torch.int64) if self._window is None else self._window
        totals, counts = self._summed(window.to(device)).tolist()  # the only wait for the device
        self._window = None
        names = ["train/loss", "grad_norm", *(f"loss_t/{i:02d}" for i in range(self.bins))]
        metrics = {name: a / UNIT / n for name, a, n in zip(names, totals, counts, strict=True) if n > 0}
        metrics["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        if self._skipped:
            metrics["skipped_steps"] = float(self._skipped)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self._step)

    def _bad_steps(self, trainer: pl.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "bad_steps.jsonl"

    def _note_bad_step(self, trainer: pl.Trainer) -> None:
        key = torch.cat([row["key"] for row in self._rows])
        bad = ~torch.cat([row["loss_per_sample"] for row in self._rows]).isfinite()
        keys = (key[bad] if bool(bad.any()) else key).tolist()
        self._skipped += 1
        self._recent = [step for step in self._recent if step > self._step - RECENT] + [self._step]
        path = self._bad_steps(trainer)
        line = {"step": self._step, "rank": trainer.global_rank, "loss": bool(bad.any()), "keys": keys}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        what = "the loss" if bool(bad.any()) else "the gradient"
        log.warning("step %d is skipped: %s is not finite, keys %s", self._step, what, keys[:8])
        if len(self._recent) > self.max_bad_steps:
            raise TrainingDiverged(
                f"{what} is not finite in step {self._step}, keys {keys[:8]}; {len(self._recent)} of the "
                f"last {RECENT} steps were skipped, see {path}; lower the learning rate (optimizer.lr) or "
                "allow more"
            )
