"""Uniform numbers of training times: functions of (seed, key, visit), uniform, even over a key's visits."""

import pytest
import torch

from ldm.diffusion import random
from ldm.diffusion.time_draws import GOLDEN_RATIO, Independent, LowDiscrepancy, TimeDraws
from ldm.utils.options import options

DRAWS = options("time_draws")


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_are_uniform_and_functions_of_seed_key_and_visit(name):
    draws, key = DRAWS[name], torch.arange(4000)
    assert isinstance(draws, TimeDraws)
    for visit in (0, 1, 1000):
        u = draws(3, key, visit).sort().values
        assert ((u >= 0) & (u < 1)).all()
        assert (u - (torch.arange(4000) + 0.5) / 4000).abs().max() < 1.63 / 4000**0.5  # Kolmogorov, 1 %
    assert torch.equal(draws(3, key, 7)[5:9], draws(3, key[5:9], 7))
    assert not torch.equal(draws(3, key, 7), draws(4, key, 7))
    assert not torch.equal(draws(3, key, 7), draws(3, key, 8))


def test_a_key_is_spread_evenly_over_its_visits():
    """The largest gap of n visits is below 1.9/n with the golden ratio (Sos 1958), about log(n)/n without."""
    visits = {
        d: torch.cat([d(0, torch.tensor([7]), v) for v in range(100)])
        for d in (LowDiscrepancy(), Independent())
    }
    gaps = [u.sort().values.diff().max().item() for u in visits.values()]
    assert gaps[0] < 1.9 / 100 < 3 / 100 < gaps[1]


def test_low_discrepancy_is_its_formula():
    key = torch.arange(10)
    expected = (random.uniform(2, "time", key, 0) + GOLDEN_RATIO * 5 % 1.0) % 1.0
    assert torch.equal(LowDiscrepancy()(2, key, 5), expected)


def test_late_visits_are_as_evenly_spread_as_early_ones():
    """The whole part of visit times the golden ratio would take the digits of its fraction in float32."""
    key = torch.tensor([3])
    visits = range(10_000_000, 10_000_089)  # a Fibonacci number of them
    times = torch.cat([LowDiscrepancy()(0, key, visit) for visit in visits]).sort().values
    gaps = torch.diff(times)
    assert gaps.min() > 0.4 / 89
    assert gaps.max() < 2.0 / 89
