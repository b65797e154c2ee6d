"""Covariance of known and unknown pixels that inpainting keeps, exactly, for Gaussian data.

Two pixels of unit variance have a known correlation; one of them is given. The exact denoiser is linear, and
so is inpainting with any solver: the moments of what it draws are read off the responses to the image, the
start and each draw of noise, without a Monte-Carlo error.
"""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.prediction import Denoise, Denoised
from ldm.diffusion.resampling import Resampling, resampled
from ldm.diffusion.sampling import Scheduler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.utils.errors import UserError

IMAGE, KNOWN, UNKNOWN, DRAWS = range(
    4
)  # rows: the given pixel, the start's two noises, then two for each draw


class Inpainted(NamedTuple):
    """Moments of the drawn pixel; the exact ones are covariance rho and variance 1.

    Attributes:
        kept: its covariance with the given pixel, in units of the exact one.
        variance: its variance.
        evaluations: of the denoiser.
    """

    kept: float
    variance: float
    evaluations: int


def pair_denoiser(schedule: NoiseSchedule, correlation: float, calls: Iterator[int]) -> Denoise:
    """The exact denoiser of pairs (n, 2) of unit variance: x0 = alpha C (alpha^2 C + sigma^2)^-1 x.

    Args:
        schedule: noise levels.
        correlation: of the pair.
        calls: advanced at each evaluation.
    """
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)

    def denoise(x: Tensor, t: Tensor) -> Denoised:
        next(calls)
        alpha, sigma = schedule(t, 1, torch.float64)
        noisy = torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64))
        return Denoised(alpha * x @ (noisy @ covariance), sigma * x @ noisy)

    return denoise


def known_pixel(schedule: NoiseSchedule, x: Tensor, t: Tensor, row: int) -> Tensor:
    """The responses (n, 2) with the given pixel put back at time t, its noise being that of a row."""
    alpha, sigma = schedule(t, 1, torch.float64)
    known = torch.zeros(len(x), dtype=torch.float64)
    known[IMAGE], known[row] = float(alpha), float(sigma)
    return torch.stack([known, x[:, 1]], dim=1)


def inpainted(
    solver: Scheduler,
    schedule: NoiseSchedule,
    grid: Tensor,
    resampling: Resampling,
    correlation: float = 0.8,
    fresh: bool = False,
) -> Inpainted:
    """Exact moments of the unknown pixel, from pure noise, the known one replaced after each step.

    Args:
        solver: a rule that is linear in the data.
        schedule: noise levels.
        grid: times, the last -1.
        resampling: parts of the grid to run several times.
        correlation: of the pixels, not 0.
        fresh: draw the noise of the known pixel anew at each step, as RePaint does, in place of the start's.

    Raises: ValueError if the solver draws more noise than there is room for.
    """
    steps = resampling.steps(len(grid) - 1)
    room, rows, calls = 4 * steps + 16, count(1), count()
    denoise = pair_denoiser(schedule, correlation, calls)
    x = torch.zeros(DRAWS + 2 * room + steps, 2, dtype=torch.float64)
    x[KNOWN, 0] = x[UNKNOWN, 1] = schedule.spread(grid[:1], 1, torch.float64)

    def noise(n: int, t: Tensor, s: Tensor) -> Tensor:
        if n >= room:
            raise UserError(f"the solver draws more than {room} times")
        drawn = torch.zeros_like(x)
        drawn[DRAWS + 2 * n, 0] = drawn[DRAWS + 2 * n + 1, 1] = 1.0
        return drawn

    def blend(i: int, x: Tensor, x0: Tensor) -> Tensor:
        return known_pixel(schedule, x, grid[i + 1 : i + 2], -next(rows) if fresh else KNOWN)

    end = resampled(denoise, schedule, solver, x, grid, noise, blend, resampling)[:, 1]
    return Inpainted(float(end[IMAGE]) / correlation, float(end.square().sum()), next(calls))
