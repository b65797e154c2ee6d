"""What the solvers share: the ratio of SNRs without cancellation, and clipping that keeps the noisy data."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from ldm.diffusion.prediction import Denoised
from ldm.diffusion.schedule import linear, zero_snr
from ldm.schedulers import DDIM, DDPM
from ldm.schedulers.base import Scheduler, clip, snr_ratio


def test_snr_ratio_equals_exact_arithmetic_at_every_neighbouring_pair():
    schedule = linear()
    t = torch.arange(1, 1000).double()
    bars = [Fraction(a) for a in schedule.alphas_cumprod]
    snr = [a / (1 - a) for a in bars]
    exact = torch.tensor([(float(b / a), float(1 - b / a)) for a, b in pairwise(snr)]).unbind(1)
    torch.testing.assert_close(snr_ratio(schedule, t, t - 1, 1), exact, rtol=1e-6, atol=0)


def test_snr_ratio_is_zero_from_pure_noise_and_to_clean_data():
    schedule = zero_snr(base=linear())
    t, s = torch.tensor([999.0, 999.0, 500.0]), torch.tensor([-1.0, 998.0, -1.0])
    ratio, drop = snr_ratio(schedule, t, s, 4)
    assert torch.equal(ratio, torch.zeros(3, 1, 1, 1))
    assert torch.equal(drop, torch.ones(3, 1, 1, 1))


def test_clipped_estimates_stand_for_the_same_noisy_data():
    x0, x = torch.tensor([-3.0, 0.5, 2.0]), torch.tensor([0.1, 0.2, 0.3])
    alpha, sigma = torch.tensor([0.6]), torch.tensor([0.8])
    found = clip(Denoised(x0, (x - alpha * x0) / sigma), x, alpha, sigma, 1.0)
    assert found.x0.tolist() == [-1.0, 0.5, 1.0]
    torch.testing.assert_close(alpha * found.x0 + sigma * found.eps, x)


def test_no_clipping_returns_the_estimates():
    denoised = Denoised(torch.full((1,), 9.0), torch.zeros(1))
    assert clip(denoised, torch.zeros(1), torch.ones(1), torch.ones(1), None) is denoised


@pytest.mark.parametrize("make", [DDPM, DDIM])
def test_solvers_follow_the_protocol_and_refuse_impossible_bounds(make):
    assert isinstance(make(), Scheduler)
    for bound in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"scheduler\.clip_x0"):
            make(clip_x0=bound)
