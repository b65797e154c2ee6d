"""What the solvers share: the ratio of SNRs without cancellation, and clipping that keeps the noisy data."""

from fractions import Fraction
from itertools import pairwise

import torch

from ldm.diffusion.schedule import linear, zero_snr
from ldm.schedulers.base import down_time, renoise, snr_ratio, time_between


def test_snr_ratio_equals_exact_arithmetic_at_every_neighbouring_pair():
    schedule = linear()
    t = torch.arange(1, 1000).double()
    bars = [Fraction(a) for a in schedule.alphas_cumprod]
    snr = [a / (1 - a) for a in bars]
    exact = torch.tensor([(float(b / a), float(1 - b / a)) for a, b in pairwise(snr)]).unbind(1)
    torch.testing.assert_close(snr_ratio(schedule, t, t - 1, torch.zeros(1)), exact, rtol=1e-6, atol=0)


def test_snr_ratio_is_zero_from_pure_noise_and_to_clean_data():
    schedule = zero_snr(base=linear())
    t, s = torch.tensor([999.0, 999.0, 500.0]), torch.tensor([-1.0, 998.0, -1.0])
    ratio, drop = snr_ratio(schedule, t, s, torch.zeros(1, 1, 1, 1))
    assert torch.equal(ratio, torch.zeros(3, 1, 1, 1))
    assert torch.equal(drop, torch.ones(3, 1, 1, 1))


def test_noise_added_to_a_level_leads_to_the_other():
    schedule, z = linear(), torch.ones(3, dtype=torch.float64)
    s, t = torch.tensor([-1.0, 10.0, 500.0]), torch.tensor([10.0, 500.0, 500.0])
    (a_s, n_s), (a_t, n_t) = schedule(s, 1, torch.float64), schedule(t, 1, torch.float64)
    signal = renoise(schedule, a_s, s, t, 0 * z)
    torch.testing.assert_close(signal, a_t)
    spread = renoise(schedule, 0 * z, s, t, z)
    torch.testing.assert_close((signal / a_s * n_s) ** 2 + spread**2, n_t**2)


def test_ancestral_noise_leads_from_the_level_below_with_the_variance_of_the_posterior():
    schedule = linear()
    t, s = torch.tensor([999.0, 500.0, 5.0]).double(), torch.tensor([700.0, 20.0, -1.0]).double()
    d = down_time(schedule, t, s, 1.0)
    variance = renoise(schedule, torch.zeros(3).double(), d, s, torch.ones(3).double()) ** 2
    _, drop = snr_ratio(schedule, t, s, torch.zeros(1).double())
    torch.testing.assert_close(variance, schedule(s, 1, torch.float64)[1] ** 2 * drop)
    assert torch.equal(down_time(schedule, t, s, 0.0), s)


def test_the_middle_is_that_of_the_log_snr_and_the_end_where_this_is_infinite():
    schedule = zero_snr(base=linear())
    t, s = torch.tensor([900.0, 999.0, 5.0]).double(), torch.tensor([100.0, 10.0, -1.0]).double()
    middle = time_between(schedule, t, s, 0.5)
    mean = (schedule.log_snr(t[:1]) + schedule.log_snr(s[:1])) / 2
    torch.testing.assert_close(schedule.log_snr(middle[:1]), mean)
    assert torch.equal(middle[1:], s[1:])
