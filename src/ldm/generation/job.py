"""One call of a sampler: its arguments, checked and complete."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.brownian import step_noise
from ldm.diffusion.resampling import Resampling
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.thresholding import Thresholding
from ldm.generation.draws import Draws
from ldm.generation.given_tensors import check_shape
from ldm.generation.reading import PLAIN, Reading
from ldm.generation.settings import OnStep, Settings
from ldm.guidance import Guidance
from ldm.schedulers.base import Scheduler
from ldm.utils.errors import UserError

Watch = Callable[[int, Tensor, Tensor], None]
"""Called after each step with its index, the latents and the estimate of x0."""

ONCE = Resampling(count=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One call, with the model's defaults filled in.

    Args:
        prompts: one per image.
        negatives: one per image.
        guidance: the rule.
        scale: of the guidance.
        net_scale: the guidance scale that a distilled net reads, which is then not guided; None for others.
        scheduler: the reverse-step rule.
        thresholding: bounds of x0, or None.
        noise: of stochastic schedulers, "independent" or "brownian".
        schedule: noise levels.
        grid: times of the steps that are run.
        whole: whether the grid starts at the top, from pure noise.
        shape: of an image's latents.
        draws: the random numbers.
        single: whether the caller wants one image rather than a list.
        given: the arguments of the call.
        embeds: encoded prompts in place of `prompts`, (n, l, d), one per image.
        negative_embeds: in place of `negatives`, likewise.
        resampling: parts of the grid to run several times.
        reading: of the prompts.
    """

    prompts: list[str]
    negatives: list[str]
    guidance: Guidance
    scale: float
    net_scale: float | None
    scheduler: Scheduler
    thresholding: Thresholding | None
    noise: str
    schedule: NoiseSchedule
    grid: Tensor
    whole: bool
    shape: tuple[int, int, int]
    draws: Draws
    single: bool
    given: Settings
    embeds: Tensor | None = None
    negative_embeds: Tensor | None = None
    resampling: Resampling = ONCE
    reading: Reading = PLAIN

    def batches(self) -> Iterator[range]:
        """The images that are sampled together."""
        count, size = len(self.prompts), self.given.batch_size
        return (range(first, min(first + size, count)) for first in range(0, count, size))

    @property
    def steps(self) -> int:
        """Steps of all batches together."""
        return len(list(self.batches())) * self.resampling.steps(len(self.grid) - 1)

    def start_noise(self, rows: range) -> Tensor:
        """The standard normal numbers that sampling starts from: `latents` if given, or drawn ones."""
        if self.given.latents is None:
            return self.draws.normal("x_T", 0, rows, self.shape)
        return self.given.latents[rows.start : rows.stop].to(self.draws.device, torch.float32)

    def pure_noise(self, rows: range) -> Tensor:
        """Latents at the top of the schedule, as wide as noisy data of unit variance."""
        drawn = self.start_noise(rows)
        return drawn * self.schedule.spread(self.grid[:1].to(drawn.device), drawn.ndim)

    def step_noise(self, rows: range) -> Callable[[int, Tensor, Tensor], Tensor]:
        """The noise that `sample` draws at its steps."""
        return step_noise(
            self.noise,
            lambda n: self.draws.normal("step", n, rows, self.shape),
            self.schedule.num_train_timesteps,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Where sampling of one batch starts, and what it is constrained by.

    Args:
        x: latents at the first time of the grid, (b, c, h, w).
        concat: further input channels of the net, (b, k, h, w).
        blend: maps (index of the step, latents after it) to the latents that the next step starts from.
    """

    x: Tensor
    concat: Tensor | None = None
    blend: Callable[[int, Tensor], Tensor] | None = None

    def after_step(self, watch: Watch | None, on_step: OnStep | None) -> OnStep:
        """The `on_step` of `sample`: watches, then blends, then calls the user's function."""

        def after(i: int, x: Tensor, x0: Tensor) -> Tensor:
            if watch is not None:
                watch(i, x, x0)
            blended = x if self.blend is None else self.blend(i, x)
            replaced = None if on_step is None else on_step(i, blended, x0)
            return blended if replaced is None else _replaced(replaced, blended)

        return after


def _replaced(given: Any, latents: Tensor) -> Tensor:
    """The latents that `on_step` returned in place of those of the step.

    Raises: ValueError for anything else than latents of the same shape.
    """
    try:
        check_shape(given, tuple(latents.shape))
    except UserError as error:
        raise UserError(f"on_step must return None or the latents of the next step: {error}") from error
    return given.to(latents)


class Latents(NamedTuple):
    """Result of a job.

    Attributes:
        z: normalised latents, (n, c, h, w).
        net_evaluations: evaluations of a net for each image.
    """

    z: Tensor
    net_evaluations: list[int]
