"""Optimiser construction and learning-rate schedules that count images seen."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ldm.utils.errors import UserError, one_line


@dataclass(frozen=True, kw_only=True)
class LRSchedule:
    """Learning-rate factor: linear warm-up, constant, then cosine decay to `final`.

    Args:
        warmup_images: images of the linear warm-up.
        total_images: images at which the decay ends.
        decay_start: fraction of `total_images` at which the decay starts; 1 keeps the rate constant.
        final: factor at the end of the decay.
    """

    warmup_images: int
    total_images: int
    decay_start: float = 1.0
    final: float = 0.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0.0 <= self.decay_start <= 1.0:
            raise ValueError(f"decay_start must be in [0, 1], got {self.decay_start}")

    def __call__(self, images: int) -> float:
        """Factor of the learning rate after `images` training images."""
        warmup = min(1.0, (images + 1) / max(self.warmup_images, 1))
        start = self.decay_start * self.total_images
        if images <= start or self.decay_start == 1.0:
            return warmup
        progress = min(1.0, (images - start) / max(self.total_images - start, 1))
        return warmup * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress)))


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimizer; walking its modules at each step takes milliseconds."""
    return [p for group in optimizer.param_groups for p in group["params"]]


@torch.no_grad()
def clip_or_drop(
    parameters: list[nn.Parameter], max_norm: float | None, sound: bool, agree: Callable[[bool], bool]
) -> tuple[Tensor, bool]:
    """Clips the norm of all gradients, or takes the gradients away if the step is not to be made.

    Optimizers leave a parameter without gradient, and its state, as it is.

    Args:
        parameters: of the optimizer.
        max_norm: largest norm; None clips nothing.
        sound: whether this rank's losses are finite.
        agree: whether something holds on all ranks.

    Returns: the norm before clipping, (), and whether the step is skipped.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if not agree(sound and bool(norm.isfinite())):
        for p in parameters:
            p.grad = None
        return norm, True
    if max_norm:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm, False


def optimizer_and_schedule(
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    parameters: Iterable[nn.Parameter],
    lr_schedule: LRSchedule | None,
    images_per_step: int,
) -> dict[str, Any]:
    """The value of Lightning's `configure_optimizers` for one optimizer and a schedule per step.

    Args:
        optimizer: maps parameters to an optimizer.
        parameters: the trainable parameters.
        lr_schedule: factor as a function of the images seen; None keeps the rate.
        images_per_step: global batch size times gradient accumulation.

    Raises: UserError if the optimizer refuses the parameters.
    """
    try:
        built = optimizer([p for p in parameters if p.requires_grad])
    except (ValueError, TypeError) as error:  # Muon takes matrices only, for instance
        raise UserError(f"optimizer refuses the parameters: {one_line(str(error))}") from error
    factor = lr_schedule or (lambda images: 1.0)
    schedule = ConfiguredLR(built, lambda step: factor(step * images_per_step))
    keep_settings(built)
    return {"optimizer": built, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ConfiguredLR(LambdaLR):
    """A schedule that resumes at the step of a checkpoint, at the rate that is configured now.

    torch's own goes on from the rates of the checkpoint.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the step from a checkpoint; rates are functions of the step."""
        base = self.base_lrs
        super().load_state_dict(state_dict)
        self.base_lrs = base
        self._last_lr = [rate * f(self.last_epoch) for rate, f in zip(base, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def keep_settings(optimizer: Optimizer) -> None:
    """Makes an optimizer take its moments from a checkpoint and keep its settings, as weight decay."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]

    def configured(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        groups = zip(state["param_groups"], settings, strict=True)
        return {**state, "param_groups": [{**saved, **now} for saved, now in groups]}

    optimizer.register_load_state_dict_pre_hook(configured)
