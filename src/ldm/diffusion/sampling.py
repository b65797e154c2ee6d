"""The one sampling loop, for every solver."""

from collections.abc import Callable
from itertools import count, pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.prediction import Denoise, Denoised
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.timesteps import check_grid

Noise = Callable[[Tensor, Tensor], Tensor]
"""Draws standard normal numbers for a transition between two times, shaped as the data."""


@runtime_checkable
class Scheduler(Protocol):
    """One reverse-step rule: a pure function from noise level t to noise level s.

    Those of `ldm.schedulers` also have `order` (of accuracy, without noise), `evaluations` (largest number of
    calls of the denoiser in a step), `stochastic` (True if a step draws noise) and `source` (the paper).
    """

    def step(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: Any,
        noise: Noise,
    ) -> tuple[Tensor, Any]:
        """One step x_t -> x_s.

        Args:
            denoise: maps (x_t, t) to the estimates (x0, eps); called as often as the solver needs.
            schedule: noise levels.
            x: data at noise level t, (b, ...).
            t: current times, (1,) or one per row.
            s: target times, any s < t; -1 is clean.
            state: what the last step returned; None at the first.
            noise: draws standard normal numbers for a transition; deterministic solvers never call it.

        Returns:
            The data at noise level s and the state for the next step.
        """


class StopSampling(Exception):
    """Raised by an `on_step` function to end `sample` with the latest estimate of x0."""


def sample(
    denoise: Denoise,
    schedule: NoiseSchedule,
    scheduler: Scheduler,
    x: Float[Tensor, "b ..."],
    timesteps: Float[Tensor, " n"],
    noise: Callable[[int, Tensor, Tensor], Tensor],
    on_step: Callable[[int, Tensor, Tensor], Tensor | None] | None = None,
) -> Float[Tensor, "b ..."]:
    """Data at the last of the times, from data at the first of them.

    Args:
        denoise: maps (x_t, t) to the estimates (x0, eps), see `Diffusion.denoiser`.
        schedule: noise levels.
        scheduler: the solver.
        x: data at noise level timesteps[0]: standard normal at the top of the schedule.
        timesteps: n times, strictly decreasing; n - 1 steps are run. -1 is clean.
        noise: maps the draw's number in this run and the two times of the transition that it is for, (1,)
            each, to standard normal numbers shaped as x.
        on_step: called after each step with its index, the data and the latest estimate of x0; what it
            returns replaces the data. `StopSampling` raised in it ends the loop with that estimate.

    Raises:
        ValueError: if the times do not decrease strictly within [-1, T-1].
    """
    check_grid(timesteps, schedule.num_train_timesteps)
    times = timesteps.to(x.device, torch.float32 if x.device.type == "mps" else torch.float64)
    observed, draws = _Observed(denoise, Denoised(x, x)), count()
    state: Any = None
    for i, (t, s) in enumerate(pairwise(times.split(1))):
        x, state = scheduler.step(observed, schedule, x, t, s, state, lambda a, b: noise(next(draws), a, b))
        try:
            replaced = None if on_step is None else on_step(i, x, observed.latest.x0)
        except StopSampling:
            return observed.latest.x0
        x = x if replaced is None else replaced
    return x


class _Observed:
    """A denoiser that keeps its latest estimate, for `on_step`."""

    def __init__(self, denoise: Denoise, latest: Denoised) -> None:
        self.denoise, self.latest = denoise, latest

    def __call__(self, x_t: Tensor, t: Tensor) -> Denoised:
        """The estimate at (x_t, t)."""
        self.latest = self.denoise(x_t, t)
        return self.latest
