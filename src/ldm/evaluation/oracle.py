"""Exact solutions for data whose denoiser is known, and what a solver makes of them.

For a mixture of Gaussians on the line E[x0 | x_t] is a formula, and the probability-flow ODE carries
quantiles to quantiles. For a single Gaussian every solver is an affine map of x_T and its noise: the moments
of what it samples are read off that map, without a Monte-Carlo error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ldm.diffusion.prediction import Denoise, Denoised, noise_in
from ldm.diffusion.sampling import Scheduler, sample
from ldm.diffusion.schedule import NoiseSchedule
from ldm.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A mixture of Gaussians on the line.

    Args:
        means: of the parts.
        shares: of the parts, summing to 1.
        std: standard deviation of every part; 0 for points.
    """

    means: tuple[float, ...] = (-1.2, 0.4, 1.3)
    shares: tuple[float, ...] = (0.3, 0.5, 0.2)
    std: float = 0.4

    def denoiser(self, schedule: NoiseSchedule) -> Denoise:
        """The exact denoiser of data (n,), in float64."""
        means, shares = (torch.tensor(v, dtype=torch.float64) for v in (self.means, self.shares))

        def denoise(x: Tensor, t: Tensor) -> Denoised:
            alpha, sigma = (level[:, None] for level in schedule(t, 1, torch.float64))
            var, d = alpha**2 * self.std**2 + sigma**2, x[:, None] - alpha * means
            share = (shares.log() - d**2 / var / 2).softmax(1)
            x0 = (share * (means + alpha * self.std**2 / var * d)).sum(1)
            if len(self.means) == 1:  # without the cancellation in x - alpha x0
                return Denoised(x0, (sigma / var * d)[:, 0])
            return Denoised(x0, noise_in(x, x0, alpha[:, 0], sigma[:, 0]))

        return denoise

    def flow(self, schedule: NoiseSchedule, x: Tensor, t: float, s: float) -> Float64[Tensor, " n"]:
        """Where the probability-flow ODE carries x (n,) from time t to time s: to the same quantile."""
        share = self._below(schedule, x, t)
        low, high = (torch.full_like(x, end) for end in (-1e3, 1e3))
        for _ in range(70):
            middle = (low + high) / 2
            less = self._below(schedule, middle, s) < share
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        return (low + high) / 2

    def _below(self, schedule: NoiseSchedule, x: Tensor, t: float) -> Tensor:
        """The distribution function of x_t."""
        means, shares = (torch.tensor(v, dtype=torch.float64) for v in (self.means, self.shares))
        alpha, sigma = schedule(torch.tensor([t], dtype=torch.float64), 1, torch.float64)
        spread = torch.sqrt(alpha**2 * self.std**2 + sigma**2)
        return (shares * torch.special.ndtr((x[:, None] - alpha * means) / spread)).sum(1)


def gaussian(mean: float, std: float) -> Mixture:
    """Data N(mean, std^2)."""
    return Mixture(means=(mean,), shares=(1.0,), std=std)


class Affine(NamedTuple):
    """x_s = offset + gain x_t + the sum of spread times noise, for each transition."""

    offset: Tensor
    gain: Tensor
    spreads: list[Tensor]

    def moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of x_s from those of x_t."""
        noise = sum((spread**2 for spread in self.spreads), torch.zeros_like(self.gain))
        return self.offset + self.gain * mean, self.gain**2 * variance + noise


def step_map(solver: Scheduler, schedule: NoiseSchedule, data: Mixture, t: Tensor, s: Tensor) -> Affine:
    """Effect of one step on Gaussian data, for transitions t (n,) -> s (n,) at once."""
    zero, one, denoise = torch.zeros_like(t), torch.ones_like(t), data.denoiser(schedule)
    draws = 0

    def at(x: Tensor, chosen: int | None) -> Tensor:
        nonlocal draws
        draws = 0

        def noise(a: Tensor, b: Tensor) -> Tensor:
            nonlocal draws
            draws += 1
            return one if draws - 1 == chosen else zero

        return solver.step(denoise, schedule, x, t, s, None, noise)[0]

    offset = at(zero, None)
    gain = at(one, None) - offset
    return Affine(offset, gain, [at(zero, i) - offset for i in range(draws)])


def marginal(schedule: NoiseSchedule, data: Mixture, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_t for Gaussian data, each shaped as t (n,)."""
    alpha, sigma = schedule(t, 1, torch.float64)
    return alpha * data.means[0], alpha**2 * data.std**2 + sigma**2


def level_error(solver: Scheduler, schedule: NoiseSchedule, t: Tensor, s: Tensor) -> float:
    """Largest error of mean or standard deviation after one step, for data at a point.

    Such data has x0 known at every level: whatever is wrong is the level that the step led to.
    """
    data = gaussian(0.7, 0.0)
    mean, variance = step_map(solver, schedule, data, t, s).moments(*marginal(schedule, data, t))
    wanted_mean, wanted = marginal(schedule, data, s)
    return max(float((mean - wanted_mean).abs().max()), float((variance.sqrt() - wanted.sqrt()).abs().max()))


class Sampled(NamedTuple):
    """Samples of a solver for Gaussian data: moments at the end, their exact values, evaluations."""

    mean: float
    std: float
    exact_mean: float
    exact_std: float
    evaluations: int

    @property
    def error(self) -> float:
        """Error of mean or standard deviation, the larger, in standard deviations."""
        scale = self.exact_std or 1.0
        return max(abs(self.mean - self.exact_mean), abs(self.std - self.exact_std)) / scale


def sampled_moments(
    solver: Scheduler, schedule: NoiseSchedule, data: Mixture, grid: Tensor, draws: int | None = None
) -> Sampled:
    """Exact mean and standard deviation of a solver's samples of Gaussian data, x_T drawn from its marginal.

    Args:
        solver: a rule that is affine in the data: any that acts on each element alone.
        schedule: noise levels.
        data: one Gaussian.
        grid: times.
        draws: room for so many draws; None for two of each step and some more.

    Raises:
        ValueError: if the solver draws more often.
    """
    room = 2 * len(grid) + 16 if draws is None else draws
    x = torch.zeros(room + 2, dtype=torch.float64)
    x[1] = 1.0
    denoise, calls = data.denoiser(schedule), 0

    def counted(x_t: Tensor, t: Tensor) -> Denoised:
        nonlocal calls
        calls += 1
        return denoise(x_t, t)

    def noise(n: int, t: Tensor, s: Tensor) -> Tensor:
        if n >= room:
            raise UserError(f"the solver draws more than {room} times")
        return torch.zeros_like(x).index_fill(0, torch.tensor(n + 2), 1.0)

    end = sample(counted, schedule, solver, x, grid, noise)
    parts = end - end[0]
    mean_t, variance_t = marginal(schedule, data, grid[:1])
    wanted_mean, wanted = marginal(schedule, data, grid[-1:])
    variance = float(parts[1] ** 2 * variance_t + parts[2:].square().sum())
    mean = float(end[0] + parts[1] * mean_t)
    return Sampled(mean, math.sqrt(variance), float(wanted_mean), float(wanted.sqrt()), calls)


def flow_error(
    solver: Scheduler, schedule: NoiseSchedule, data: Mixture, grid: Tensor, points: int = 16
) -> float:
    """Largest error of a deterministic solver, over trajectories that start within two deviations."""
    spread = schedule.spread(grid[:1], 1, torch.float64)
    start = torch.linspace(-2, 2, points, dtype=torch.float64) * spread
    exact = data.flow(schedule, start, float(grid[0]), float(grid[-1]))
    end = sample(data.denoiser(schedule), schedule, solver, start, grid, _no_noise)
    return float((end - exact).abs().max())


def _no_noise(n: int, t: Tensor, s: Tensor) -> Tensor:
    raise UserError("a deterministic solver draws no noise")


Error = Callable[[int], float]


def measured_order(error: Error, steps: int) -> float:
    """log2 of error(steps) / error(2 steps)."""
    coarse, fine = error(steps), error(2 * steps)
    return math.log2(coarse / fine) if fine > 0 else math.inf
