"""Restart: options, and the evaluations of its rounds."""

import pytest

from ldm.cli.groups import options
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import times_of
from ldm.evaluation.oracle import gaussian, sampled_moments
from ldm.schedulers import (
    Heun,
    Restart,
)

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


def test_restart_goes_its_interval_again():
    """2 x repeats x steps evaluations more, once."""
    data, grid = gaussian(0.5, 0.6), times_of(GRIDS["log_snr"], SCHEDULE, 12)
    plain = sampled_moments(Heun(), SCHEDULE, data, grid)
    again = sampled_moments(Restart(low=0.1, high=2.0, repeats=3, steps=20), SCHEDULE, data, grid)
    assert again.evaluations == plain.evaluations + 2 * 3 * 20
    assert again.error < 0.05
