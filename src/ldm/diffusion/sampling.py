"""The one sampling loop."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.process import Denoise
from ldm.diffusion.schedule import NoiseSchedule

OnStep = Callable[[int, Tensor, Tensor], Tensor | None]


def sample(
    denoise: Denoise,
    schedule: NoiseSchedule,
    scheduler: Any,
    x: Float[Tensor, "b ..."],
    timesteps: Float[Tensor, " n"],
    noise: Callable[[int], Tensor],
    on_step: OnStep | None = None,
) -> Float[Tensor, "b ..."]:
    """Runs a scheduler down a grid of times.

    Args:
        denoise: maps (x_t, t) to the estimates (x0, eps).
        schedule: noise levels.
        scheduler: has the pure `step` of `ldm.schedulers.base.Scheduler`.
        x: noise at the first time.
        timesteps: strictly decreasing times; one step between each two.
        noise: standard normal noise, like x, for step i.
        on_step: called with (i, x_s, estimate of x0 at t); what it returns, if not None, replaces x_s.

    Returns: x at the last time of the grid.
    Raises: ValueError if the grid does not decrease strictly.
    """
    times = timesteps.to(torch.float64)
    if len(times) < 2 or bool((times[1:] >= times[:-1]).any()):
        raise ValueError(f"timesteps must decrease strictly, got {times.tolist()} (timesteps)")
    state: Any = None
    latest: list[Tensor] = []

    def watched(x_t: Tensor, t: Tensor) -> Any:
        denoised = denoise(x_t, t)
        latest[:] = [denoised.x0]
        return denoised

    grid = times.to(x.device)
    for i in range(len(grid) - 1):
        x, state = scheduler.step(watched, schedule, x, grid[i : i + 1], grid[i + 1 : i + 2], state, noise(i))
        if on_step is not None and (replaced := on_step(i, x, latest[0])) is not None:
            x = replaced
    return x
