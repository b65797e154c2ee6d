"""The order over shards: exactly once per epoch, the same global batches for any ranks, found in no time."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.data.shards.order import SampleOrder


def plan(sizes, **options):
    return SampleOrder(shard_of=np.repeat(np.arange(len(sizes)), sizes), **{"seed": 0, **options})


SIZES = st.lists(st.integers(0, 23), min_size=1, max_size=12).filter(any)


@settings(max_examples=150)
@given(SIZES, st.integers(1, 9), st.integers(1, 40), st.integers(0, 3), st.integers(0, 2**40))
def test_every_sample_stands_exactly_once_in_every_epoch(sizes, lanes, window, epoch, seed):
    order = plan(sizes, lanes=lanes, window=window, seed=seed)
    rows, epochs = order.rows(epoch * len(order), len(order))
    assert sorted(rows.tolist()) == list(range(sum(sizes)))
    assert set(epochs.tolist()) == {epoch}


@settings(max_examples=100)
@given(
    SIZES,
    st.integers(1, 5),
    st.integers(1, 30),
    st.integers(0, 200),
    st.lists(st.integers(1, 17), max_size=6),
)
def test_places_do_not_depend_on_how_they_are_asked_for(sizes, lanes, window, start, parts):
    """Ranks, workers and restarts ask for pieces of one sequence."""
    order = plan(sizes, lanes=lanes, window=window)
    whole = order.rows(start, sum(parts))
    again, place = plan(sizes, lanes=lanes, window=window), start
    for part in parts:
        for mine, all_ in zip(again.rows(place, part), whole, strict=True):
            assert np.array_equal(mine, all_[place - start : place - start + part])
        place += part


def test_epochs_and_seeds_have_orders_of_their_own():
    sizes = [40] * 10
    orders = [
        plan(sizes, seed=seed, lanes=4, window=25).rows(400 * epoch, 400)[0]
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(order.tolist()) for order in orders}) == 4
    first = orders[0]
    assert abs(np.corrcoef(first, np.arange(400))[0, 1]) < 0.3


@pytest.mark.parametrize("lanes", [1, 4])
def test_no_more_shards_are_read_at_a_time_than_lanes_and_their_windows(lanes):
    """A window of 50 in shards of 100 touches two of them at the most."""
    order = plan([100] * 20, lanes=lanes, window=50)
    rows, _ = order.rows(0, 2000)
    for start in range(0, 2000, 50 * lanes):
        assert len(np.unique(rows[start : start + 50 * lanes] // 100)) <= 2 * lanes


def test_a_million_samples_are_entered_anywhere_at_once():
    order = plan([5000] * 200, lanes=16, window=4096)
    order.rows(0, 256)
    for start in (10**3, 10**8 + 7, 7 * 10**11):
        begin = time.perf_counter()
        rows, _ = order.rows(start, 256)
        assert len(np.unique(rows)) == 256
        assert time.perf_counter() - begin < 5  # no loop over what came before; benchmarks say how long


def test_nothing_to_train_on_is_refused():
    with pytest.raises(ValueError, match="no sample is left"):
        plan([0])
    with pytest.raises(ValueError, match="lanes must be at least 1"):
        plan([3], lanes=0)
