"""Classes in exact proportion, any place of the sequence found at once."""

from math import gcd

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.data.shards.interleaving import Interleaving, floor_sum, quotients

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any)


@settings(max_examples=200)
@given(st.integers(0, 60), st.integers(1, 50), st.integers(0, 200), st.integers(0, 200))
def test_the_sum_of_floors_is_the_sum(n, m, a, b):
    assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


@settings(max_examples=150)
@given(COUNTS, st.integers(0, 2**40), st.integers(0, 10**12))
def test_any_full_round_has_each_class_as_often_as_it_counts(counts, seed, start):
    turns = Interleaving(counts=counts, seed=seed)
    seen = [turns.at(start + t)[0] for t in range(turns.total)]
    assert [seen.count(i) for i in range(len(counts))] == counts


@settings(max_examples=150)
@given(COUNTS, st.integers(0, 2**40), st.integers(0, 100), st.integers(0, 80))
def test_what_came_before_is_what_came_before(counts, seed, start, length):
    turns = Interleaving(counts=counts, seed=seed)
    earlier = [turns.before(start, i) for i in range(len(counts))]
    assert sum(earlier) == start
    for t in range(start, start + length):
        i, before = turns.at(t)
        assert before == earlier[i]
        earlier[i] += 1
    assert earlier == [turns.before(start + length, i) for i in range(len(counts))]


@pytest.mark.parametrize("counts", [[500_000, 300_000, 150_000, 50_000], [999_983, 1, 17], [7] * 12])
def test_every_part_of_the_sequence_holds_nearly_its_share(counts):
    """The discrepancy of a rotation is bounded by its partial quotients, so these are kept small."""
    turns = Interleaving(counts=counts, seed=0)
    bound = sum(quotients(turns.factor, turns.total))
    assert bound < 60
    for t in (1, 10, 137, 4_000, turns.total // 3, 10 * turns.total + 77):
        for i, count in enumerate(counts):
            assert abs(turns.before(t, i) - t * count / turns.total) <= bound


def test_the_factor_has_no_divisor_in_common_with_the_sum():
    for total in range(1, 400):
        turns = Interleaving(counts=[total], seed=1)
        assert gcd(turns.factor, total) == 1
        assert 0 <= turns.shift < total


def test_seeds_begin_elsewhere_and_nothing_to_interleave_is_refused():
    firsts = {tuple(Interleaving(counts=[50, 30, 20], seed=s).at(t)[0] for t in range(20)) for s in range(9)}
    assert len(firsts) > 4
    for counts in ([], [0, 0], [3, -1]):
        with pytest.raises(ValueError, match="counts must be"):
            Interleaving(counts=counts, seed=0)
