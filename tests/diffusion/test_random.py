"""Draws are functions of (seed, purpose, key, visit, index) and look independent and as distributed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ldm.diffusion import random

KEYS = torch.arange(512)
INT64 = st.integers(-(2**63), 2**63 - 1)
GOLDEN_INTEGERS = [2582593, 13575488, 14747824, 13014170]
GOLDEN_RANDINT = [0, 3, 5, 3]
GOLDEN_PERMUTATION = [4, 5, 1, 3, 6, 0, 7, 2]
GOLDEN_NORMAL = [-1.762634, 1.998386, -0.358965, 1.131179]


def integers(**changes):
    """24 random bits for 64 x 256 counters, with one argument changed."""
    arguments = {
        "seed": 1,
        "purpose": "test",
        "key": torch.arange(64),
        "visit": 2,
        "shape": (256,),
        **changes,
    }
    return (random.uniform(**arguments) * 2**24).long()


def correlation(x, y):
    return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]).double())[0, 1].abs().item()


@given(
    keys=st.lists(INT64, min_size=1, max_size=8), seed=st.integers(0, 2**64 - 1), visit=st.integers(0, 2**31)
)
def test_a_row_does_not_depend_on_its_batch(keys, seed, visit):
    for draw in (random.uniform, random.normal):
        together = draw(seed, "noise", torch.tensor(keys), visit, (2, 3))
        alone = torch.cat([draw(seed, "noise", torch.tensor([key]), visit, (2, 3)) for key in keys])
        assert torch.equal(together, alone)


def test_a_value_depends_on_its_index_not_on_the_shape():
    long = random.uniform(0, "x", KEYS, 1, (4, 6))
    assert torch.equal(long.flatten(1)[:, :5], random.uniform(0, "x", KEYS, 1, (5,)))
    assert torch.equal(long[:, 0, 0], random.uniform(0, "x", KEYS, 1))


def test_a_visit_per_key_equals_the_visits_one_by_one():
    visits = torch.arange(len(KEYS)) % 7
    together = random.normal(3, "x", KEYS, visits, (5,))
    for visit in range(7):
        chosen = visits == visit
        assert torch.equal(together[chosen], random.normal(3, "x", KEYS[chosen], visit, (5,)))


def test_the_global_generator_is_neither_read_nor_moved():
    before = torch.get_rng_state()
    first = random.normal(0, "x", KEYS, 0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(123)
    assert torch.equal(first, random.normal(0, "x", KEYS, 0))


def test_recorded_draws_do_not_change():
    """A change would move the held-out pairs and splits of trained models and break resuming their runs."""
    key = torch.tensor([0, 1, 2**40 + 5, -3])
    assert integers(key=key, shape=()).tolist() == GOLDEN_INTEGERS
    assert random.randint(7, "colour", key, 3, 10).tolist() == GOLDEN_RANDINT
    assert random.permutation(7, "order", 8, 3).tolist() == GOLDEN_PERMUTATION
    normal = random.normal(7, "noise", key, 3)
    torch.testing.assert_close(normal, torch.tensor(GOLDEN_NORMAL), rtol=1e-5, atol=1e-6)


def unmixed(word: int) -> int:
    """The 64-bit word whose hash is given: xor-shifts and odd factors undone, last ones first."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        y = word
        for _ in range(64 // shift):
            y = word ^ (y >> shift)
        word = y * pow(factor, -1, 2**64) % 2**64
    return word


@given(seed=st.integers(0, 2**64 - 1), key=INT64, visit=st.integers(0, 2**62), index=st.integers(0, 9))
def test_each_link_of_the_chain_can_be_undone(seed, key, visit, index):
    """From a word back to key and seed: no two keys, no two seeds share a word of the same index."""
    golden = 0x9E3779B97F4A7C15
    word = int(random._words(seed, "x", torch.tensor([key]), visit, (10,))[0, index]) % 2**64
    counter = int(random._mix(torch.tensor(random._signed((index + 1) * golden)))) % 2**64
    row = (unmixed(unmixed(word) ^ counter) - visit * golden) % 2**64
    link = unmixed(row)
    start = int(random._mix(torch.tensor(random._signed(seed + random._word("x") % 2**64)))) % 2**64
    assert random._signed(link ^ start) == key
    assert (unmixed(link ^ key % 2**64) - random._word("x")) % 2**64 == seed


def test_a_million_keys_or_visits_share_no_draw():
    """With a state of 32 bits about 116 of a million would."""
    numbers = torch.arange(1_000_000)
    for key, visit in ((numbers, 3), (numbers << 32, 3), (torch.zeros_like(numbers), numbers)):
        assert len(random._words(1, "noise", key, visit, (1,)).unique()) == len(numbers)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"seed": 1 + 2**32},
        {"purpose": "tess"},
        {"visit": 3},
        {"visit": 2 + 2**16},
        {"key": torch.arange(64) + 1},
        {"key": torch.arange(64) + 2**32},
        {"key": torch.arange(64) ^ 2**63 - 1},
    ],
    ids=str,
)
def test_changing_any_argument_flips_every_bit_half_of_the_time(changes):
    flipped = integers() ^ integers(**changes)
    for bit in range(24):
        assert (
            0.485 < (flipped >> bit & 1).float().mean().item() < 0.515
        )  # 3.8 standard deviations of 16,384 bits


def test_uniform_is_uniform_over_keys_visits_and_indices():
    for sample in (
        random.uniform(1, "a", torch.arange(100_000), 0),
        random.uniform(1, "a", torch.zeros(100_000, dtype=torch.int64), torch.arange(100_000)),
        random.uniform(1, "a", torch.zeros(1, dtype=torch.int64), 0, (100_000,)),
        random.uniform(1, "a", torch.arange(100_000) * 2**20, 0),
    ):
        assert sample.dtype == torch.float32
        assert 0.0 <= sample.min() <= sample.max() < 1.0
        assert stats.kstest(sample.double().flatten().numpy(), "uniform").pvalue > 1e-3


def test_normal_is_normal_over_keys_visits_and_indices():
    for sample in (
        random.normal(1, "a", torch.arange(100_000), 0),
        random.normal(1, "a", torch.zeros(100_000, dtype=torch.int64), torch.arange(100_000)),
        random.normal(1, "a", torch.zeros(1, dtype=torch.int64), 0, (100_000,)),
    ):
        z = sample.double().flatten()
        assert torch.isfinite(z).all()
        assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3
        assert abs((z**4).mean().item() - 3.0) < 0.13  # 4 standard deviations
        assert z.abs().max() > 3.9


def test_each_place_of_the_noise_is_normal_over_keys():
    z = random.normal(5, "noise", torch.arange(4000), 9, (4, 4, 4)).flatten(1).double().numpy()
    assert stats.kstest([stats.kstest(column, "norm").pvalue for column in z.T], "uniform").pvalue > 1e-3


def test_draws_are_uncorrelated_between_neighbours():
    z = random.normal(5, "noise", KEYS, 9, (512,))
    bound = 4.0 * z.numel() ** -0.5
    assert correlation(z[:, 1:], z[:, :-1]) < bound
    assert correlation(z[1:], z[:-1]) < bound
    assert correlation(z, random.normal(5, "noise", KEYS, 10, (512,))) < bound
    assert correlation(z, random.normal(6, "noise", KEYS, 9, (512,))) < bound
    assert correlation(z, random.normal(5, "posterior", KEYS, 9, (512,))) < bound
    assert correlation(z**2, random.normal(5, "noise", KEYS, 10, (512,)) ** 2) < bound


def test_pairs_of_successive_values_fill_the_square_evenly():
    u = random.uniform(2, "a", torch.arange(4), 0, (50_000,))
    cells = (u[:, 0::2] * 32).long() * 32 + (u[:, 1::2] * 32).long()
    assert stats.chisquare(cells.flatten().bincount(minlength=1024).numpy()).pvalue > 1e-3


def test_randint_is_uniform_in_its_range():
    draws = random.randint(0, "a", torch.arange(50_000), 0, 10)
    assert stats.chisquare(draws.bincount(minlength=10).numpy()).pvalue > 1e-3
    assert len(draws.bincount()) == 10


@given(n=st.integers(1, 300), seed=st.integers(0, 2**40), visit=st.integers(0, 1000))
def test_permutation_is_a_permutation(n, seed, visit):
    order = random.permutation(seed, "order", n, visit)
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(order, random.permutation(seed, "order", n, visit))


def test_permutations_of_visits_put_each_element_anywhere():
    places = torch.stack([random.permutation(0, "order", 10, visit) for visit in range(2000)])
    for column in places.T:
        assert stats.chisquare(column.bincount(minlength=10).numpy()).pvalue > 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices_agree():
    assert torch.equal(
        random.uniform(1, "a", KEYS, 2, (7,)), random.uniform(1, "a", KEYS.cuda(), 2, (7,)).cpu()
    )
    torch.testing.assert_close(
        random.normal(1, "a", KEYS, 2, (7,)), random.normal(1, "a", KEYS.cuda(), 2, (7,)).cpu()
    )
