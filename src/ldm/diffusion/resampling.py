"""Inpainting with jumps back to more noise: the resampling of RePaint (Lugmayr et al. 2022)."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.prediction import Denoise
from ldm.diffusion.sampling import Scheduler, StopSampling, sample
from ldm.diffusion.schedule import NoiseSchedule
from ldm.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """A way through a grid that runs each part several times (Lugmayr et al. 2022, arXiv:2201.09865).

    The parts are of `jump` steps each, counted from the last but one level; steps left over at the top and
    the last step, which leads to clean data, are run once.

    Args:
        count: how often each part is run; 1 runs the grid once.
        jump: steps of a part, the paper's jump length.
    """

    count: int = 1
    jump: int = 1

    def __post_init__(self) -> None:
        for name in ("count", "jump"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")

    def runs(self, num_steps: int) -> list[tuple[int, int]]:
        """First and last level of each descent, levels being numbered from 0 to num_steps.

        Raises: ValueError if the grid has no part of such a length.
        """
        if self.count == 1:
            return [(0, num_steps)]
        if self.jump >= num_steps:
            raise UserError(f"jump must be less than the {num_steps} steps that are run, got {self.jump}")
        found, first = [], 0
        for last in sorted(range(num_steps - 1, self.jump - 1, -self.jump)):
            for _ in range(self.count - 1):
                found.append((first, last))
                first = last - self.jump
        return [*found, (first, num_steps)]

    def steps(self, num_steps: int) -> int:
        """Steps that are run in all."""
        return sum(last - first for first, last in self.runs(num_steps))


def renoised(
    schedule: NoiseSchedule,
    x: Float[Tensor, "b ..."],
    s: Float[Tensor, " 1"],
    t: Float[Tensor, " 1"],
    noise: Float[Tensor, "b ..."],
) -> Float[Tensor, "b ..."]:
    """x_t from x_s of less noise, by the forward process (Lugmayr et al. 2022, Eq. 1, Alg. 1, line 10).

    Args:
        schedule: noise levels.
        x: data at noise level s, (b, ...).
        s: its time, (1,).
        t: the time to go back to, (1,), t > s.
        noise: standard normal, shaped as x.
    """
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    (alpha_s, sigma_s), (alpha_t, sigma_t) = (schedule(time, x.ndim, dtype) for time in (s, t))
    gain = alpha_t / alpha_s
    spread = (sigma_t.square() - (gain * sigma_s).square()).clamp(min=0).sqrt()
    return gain.to(x.dtype) * x + spread.to(x.dtype) * noise


def resampled(
    denoise: Denoise,
    schedule: NoiseSchedule,
    scheduler: Scheduler,
    x: Float[Tensor, "b ..."],
    timesteps: Float[Tensor, " n"],
    noise: Callable[[int, Tensor, Tensor], Tensor],
    on_step: Callable[[int, Tensor, Tensor], Tensor | None],
    resampling: Resampling,
) -> Float[Tensor, "b ..."]:
    """Data at the last of the times, each part of the grid run several times (Lugmayr et al. 2022, Alg. 1).

    Between two runs of a part x is noised to the level that it starts from, so that the image outside the
    mask and what is drawn under it come to agree. Solvers start each run without a history.

    Args: as in `ldm.diffusion.sampling.sample`; `on_step` gets the same index at each run of a step.
    """
    draws, stopped, level = count(), False, 0

    def drawn(_: int, t: Tensor, s: Tensor) -> Tensor:
        return noise(next(draws), t, s)

    for first, last in resampling.runs(len(timesteps) - 1):
        if first < level:
            s, t = (timesteps[i : i + 1].to(x.device) for i in (level, first))
            x = renoised(schedule, x, s, t, drawn(0, t, s))

        def after(i: int, x: Tensor, x0: Tensor, first: int = first) -> Tensor | None:
            nonlocal stopped
            try:
                return on_step(first + i, x, x0)
            except StopSampling:
                stopped = True
                raise

        x = sample(denoise, schedule, scheduler, x, timesteps[first : last + 1], drawn, after)
        if stopped:
            return x
        level = last
    return x
