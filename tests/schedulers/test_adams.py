"""Linear multistep methods: options, and the first step in closed form."""

import pytest
import torch

from ldm.cli.groups import options
from ldm.diffusion.prediction import Denoised
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import times_of
from ldm.evaluation.oracle import gaussian, sampled_moments
from ldm.schedulers import (
    DDIM,
    Adams,
)

SCHEDULE = scaled_linear()


def no_noise(t, s):
    raise AssertionError("a deterministic step draws no noise")


@pytest.mark.parametrize(
    ("kind", "given", "name"),
    [
        (Adams, {"order": 5}, "order"),
    ],
)
def test_options_out_of_range_are_refused(kind, given, name):
    with pytest.raises(ValueError, match=name) as caught:
        kind(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variable", ["sigma", "log_sigma"])
def test_the_first_step_is_ddims(variable):
    """Without a history, the polynomial through one estimate is a constant: Euler's step in sigma / alpha."""
    data, times = gaussian(0.5, 0.6), torch.tensor([[800.0], [600.0]], dtype=torch.float64)
    x, denoise = torch.linspace(-2, 2, 5).double(), data.denoiser(SCHEDULE)
    step = (denoise, SCHEDULE, x, *times, None, no_noise)
    torch.testing.assert_close(Adams(order=4, variable=variable).step(*step)[0], DDIM().step(*step)[0])


@pytest.mark.parametrize("variable", ["sigma", "log_sigma"])
def test_a_parabola_in_the_level_is_followed_to_clean_data(variable):
    """eps = c sigma^2, sigma for sigma / alpha: x0 is x / alpha minus the integral, c sigma^3 / 3."""
    times, c = torch.tensor([150.0, 100.0, 50.0, -1.0], dtype=torch.float64), 0.3

    def denoise(x, t):
        alpha, sigma = SCHEDULE(t, 1, torch.float64)
        eps = (c * (sigma / alpha).square()).expand(x.shape)
        return Denoised((x - sigma * eps) / alpha, eps)

    x, rule = torch.linspace(-2, 2, 5).double(), Adams(order=3, variable=variable)
    middle, state = x, None
    for t, s in ((150.0, 100.0), (100.0, 50.0)):
        pair = (torch.tensor([v], dtype=torch.float64) for v in (t, s))
        middle, state = rule.step(denoise, SCHEDULE, middle, *pair, state, no_noise)
    end = rule.step(denoise, SCHEDULE, middle, times[2:3], times[3:], state, no_noise)[0]
    alpha, sigma = SCHEDULE(times[2:3], 1, torch.float64)
    torch.testing.assert_close(end, middle / alpha - c * (sigma / alpha) ** 3 / 3, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("grid", ["trailing", "exponential"])
def test_deis_keeps_its_accuracy_to_clean_data(grid):
    """The moments at the end are no further from the data's than 1e-3 from those at the level before."""
    rule, times = options("scheduler")["deis"], times_of(options("timesteps")[grid], SCHEDULE, 40)
    found, before = (
        sampled_moments(rule, SCHEDULE, gaussian(0.5, 0.6), g).error for g in (times, times[:-1])
    )
    assert found <= before + 1e-3
