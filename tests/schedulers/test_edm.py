"""Euler, Heun and midpoint steps: options and churn."""

import pytest
import torch

from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import trailing
from ldm.evaluation.oracle import gaussian, sampled_moments
from ldm.schedulers import (
    DPM2,
    Euler,
)

SCHEDULE = scaled_linear()


@pytest.mark.parametrize(
    ("kind", "given", "name"),
    [
        (Euler, {"churn": 0.5}, "churn"),
        (Euler, {"noise_scale": 0.0}, "noise_scale"),
        (DPM2, {"eta": -0.1}, "eta"),
    ],
)
def test_options_out_of_range_are_refused(kind, given, name):
    with pytest.raises(ValueError, match=name) as caught:
        kind(**given)
    assert "\n" not in str(caught.value)


def test_churn_outside_of_its_levels_is_none():
    data, grid = gaussian(0.5, 0.6), trailing(1000, 20)
    plain = sampled_moments(Euler(), SCHEDULE, data, grid)
    off = sampled_moments(Euler(churn=0.2, churn_min=1e6), SCHEDULE, data, grid)
    some = sampled_moments(Euler(churn=0.2, churn_min=0.1, churn_max=5.0), SCHEDULE, data, grid)
    assert off == plain
    assert some.std != plain.std
    louder = sampled_moments(Euler(churn=0.2, noise_scale=1.05), SCHEDULE, data, grid)
    assert louder.std > sampled_moments(Euler(churn=0.2), SCHEDULE, data, grid).std


@pytest.mark.parametrize("churn", [0.1, 0.3, 0.37])
def test_churn_raises_the_level_by_its_share_in_double_precision(churn):
    t, x = torch.tensor([500.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    _, up = Euler(churn=churn).churned(SCHEDULE, x, t, t - 1, lambda t, s: x)
    raised = torch.exp((SCHEDULE.log_snr(t) - SCHEDULE.log_snr(up)) / 2)
    assert raised.item() == pytest.approx(1 + churn, rel=1e-13)
