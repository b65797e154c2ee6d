"""LCM and TCD: options, and TCD without noise."""

import pytest
import torch

from ldm.diffusion.schedule import scaled_linear
from ldm.evaluation.oracle import gaussian
from ldm.schedulers import (
    DDIM,
    LCM,
    TCD,
)

SCHEDULE = scaled_linear()


def no_noise(t, s):
    raise AssertionError("a deterministic step draws no noise")


@pytest.mark.parametrize(
    ("kind", "given", "name"),
    [
        (LCM, {"sigma_data": 0.0}, "sigma_data"),
        (LCM, {"time_scale": 0.0}, "time_scale"),
        (TCD, {"gamma": 1.1}, "gamma"),
    ],
)
def test_options_out_of_range_are_refused(kind, given, name):
    with pytest.raises(ValueError, match=name) as caught:
        kind(**given)
    assert "\n" not in str(caught.value)


def test_tcd_without_noise_is_ddim():
    """At gamma = 0 the target of the deterministic step is s itself (Zheng et al. 2024, Alg. 4)."""
    data, times = gaussian(0.5, 0.6), torch.tensor([[800.0], [600.0]], dtype=torch.float64)
    x, denoise = torch.linspace(-2, 2, 5).double(), data.denoiser(SCHEDULE)
    step = (denoise, SCHEDULE, x, *times, None, no_noise)
    torch.testing.assert_close(TCD(gamma=0.0).step(*step)[0], DDIM().step(*step)[0])
