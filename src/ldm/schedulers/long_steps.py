"""Steps that are too long for a rule of second order, judged on Gaussian data of deviation 1 and 1/2.

There, with sigma for sigma / alpha over the deviation and y for x / alpha, eps = sigma / (1 + sigma^2) y, and
the exact flow and every rule multiply y by a number. Where that of a rule is further from the exact one than
that of Euler's method, the step is Euler's, which is DDIM. From nearly pure noise the trapezoid misses by
r - 1 times Euler's error, r being the ratio of the sigmas: it is better below r = 2 and unbounded above.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule
from ldm.schedulers.base import half_log_snr

SPREADS = (1.0, 0.5)
ROUNDING = 1e-12


def trapezoid_helps(schedule: NoiseSchedule, t: Tensor, s: Tensor, x: Tensor) -> Tensor:
    """True where Heun's step from t to s beats Euler's, (b, 1, .., 1); false from pure noise."""

    def helps(start: Tensor, end: Tensor) -> Tensor:
        slope = (_slope(start) + _slope(end) * _euler(start, end)) / 2
        return _beats_euler(start, end, slope)

    return _for_all_spreads(helps, schedule, (t, s), x)


def midpoint_helps(schedule: NoiseSchedule, t: Tensor, middle: Tensor, s: Tensor, x: Tensor) -> Tensor:
    """True where the slope at a time between t and s beats that at t, (b, 1, .., 1)."""

    def helps(start: Tensor, between: Tensor, end: Tensor) -> Tensor:
        return _beats_euler(start, end, _slope(between) * _euler(start, between))

    return _for_all_spreads(helps, schedule, (t, middle, s), x)


def _for_all_spreads(
    helps: Callable[..., Tensor], schedule: NoiseSchedule, times: tuple[Tensor, ...], x: Tensor
) -> Tensor:
    """True where the rule helps on the noise levels sigma / alpha (0 for clean data) over each spread."""
    sigmas = [torch.exp(-half_log_snr(schedule, time, x)) for time in times]
    found = [helps(*(sigma / spread for sigma in sigmas)) for spread in SPREADS]
    return torch.stack(found).all(0)


def _slope(sigma: Tensor) -> Tensor:
    """The eps of y = 1."""
    return sigma / (1 + sigma.square())


def _euler(start: Tensor, end: Tensor) -> Tensor:
    """The factor of Euler's method."""
    return 1 + (end - start) * _slope(start)


def _beats_euler(start: Tensor, end: Tensor, slope: Tensor) -> Tensor:
    """True where the factor of the rule with this slope is closer to the exact one."""
    exact = torch.sqrt((1 + end.square()) / (1 + start.square()))
    error = (1 + (end - start) * slope - exact).abs()
    return error <= (_euler(start, end) - exact).abs() + ROUNDING  # false where it is NaN: at pure noise
