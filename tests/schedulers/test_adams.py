"""Linear multistep methods: options, and the first step in closed form."""

import pytest
import torch

from ldm.diffusion.schedule import scaled_linear
from ldm.evaluation.oracle import gaussian
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
