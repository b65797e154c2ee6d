"""Where steps are too long for the trapezoid and the midpoint."""

import pytest
import torch

from ldm.diffusion.continuous import VarianceExploding
from ldm.schedulers.long_steps import midpoint_helps, trapezoid_helps

SCHEDULE, X = VarianceExploding(sigma_max=1e4), torch.zeros(1, dtype=torch.float64)


def at(*sigmas):
    return [SCHEDULE.time(-2 * torch.tensor([s], dtype=torch.float64).log()) for s in sigmas]


@pytest.mark.parametrize(("ratio", "helps"), [(1.9, True), (2.1, False), (100.0, False)])
def test_the_trapezoid_beats_euler_from_high_noise_below_a_ratio_of_two(ratio, helps):
    t, s = at(50.0 * ratio, 50.0)
    assert trapezoid_helps(SCHEDULE, t, s, X).item() is helps


def test_short_steps_and_steps_at_low_noise_help():
    for high, low in ((1.0, 0.9), (0.1, 0.01), (1.0 + 1e-9, 1.0)):
        t, m, s = at(high, (high * low) ** 0.5, low)
        assert trapezoid_helps(SCHEDULE, t, s, X).item()
        assert midpoint_helps(SCHEDULE, t, m, s, X).item()


def test_the_midpoint_does_not_help_from_high_noise_to_low():
    t, m, s = at(100.0, 3.2, 0.1)
    assert not midpoint_helps(SCHEDULE, t, m, s, X).item()
