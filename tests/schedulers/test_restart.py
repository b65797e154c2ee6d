"""Restart: options, and the evaluations of its rounds."""

import pytest

from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import times_of
from ldm.evaluation.oracle import gaussian, sampled_moments
from ldm.schedulers import (
    Heun,
    Restart,
)
from ldm.utils.options import options

SCHEDULE = scaled_linear()
GRIDS = options("timesteps")


@pytest.mark.parametrize(
    ("kind", "given", "name"),
    [
        (Restart, {"low": 3.0}, "low"),
        (Restart, {"repeats": 0}, "repeats"),
        (Restart, {"steps": 0}, "steps"),
    ],
)
def test_options_out_of_range_are_refused(kind, given, name):
    with pytest.raises(ValueError, match=name) as caught:
        kind(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("grid", ["trailing", "leading", "sd15", "karras", "log_snr"])
def test_restart_goes_its_interval_again_on_every_grid(grid, steps):
    """2 x repeats x steps evaluations more, once, and at most two for the step that it divides."""
    data, times = gaussian(0.5, 0.6), times_of(GRIDS[grid], SCHEDULE, steps)
    plain = sampled_moments(Heun(), SCHEDULE, data, times)
    again = sampled_moments(Restart(low=0.1, high=2.0, repeats=3, steps=20), SCHEDULE, data, times)
    assert 2 * 3 * 20 <= again.evaluations - plain.evaluations <= 2 * 3 * 20 + 2
    assert again.error < 0.02


def test_a_grid_that_ends_above_the_interval_is_not_restarted():
    data, times = gaussian(0.5, 0.6), times_of(GRIDS["log_snr"], SCHEDULE, 12)
    plain = sampled_moments(Heun(), SCHEDULE, data, times)
    assert sampled_moments(Restart(low=0.01), SCHEDULE, data, times) == plain


@pytest.mark.parametrize(("steps", "bias"), [(4, 0.058), (8, 0.014)])
def test_the_bias_of_the_rounds_is_the_documented_one(steps, bias):
    times = times_of(GRIDS["log_snr"], SCHEDULE, 200)
    found = sampled_moments(Restart(steps=steps, repeats=6), SCHEDULE, gaussian(0.0, 0.6), times)
    assert found.std / found.exact_std - 1 == pytest.approx(bias, rel=0.15)
