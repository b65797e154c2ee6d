"""Buckets: one in a global batch, the same on all ranks, every sample once an epoch of its bucket."""

import math
import time
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.data.shards.buckets import BucketPlan, Buckets, checked_sizes, nearest_bucket
from ldm.data.shards.order import SampleOrder

SIZES = [(64, 128), (96, 96), (128, 64)]


@st.composite
def plans(draw):
    """The arguments of a plan: shards of random sizes, samples in random buckets."""
    shards = draw(st.lists(st.integers(0, 13), min_size=1, max_size=8).filter(any))
    shard_of = np.repeat(np.arange(len(shards)), shards)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    options = {
        "sizes": SIZES,
        "batch_size": draw(st.sampled_from([4, 8, 12])),
        "seed": draw(st.integers(0, 2**40)),
        "lanes": draw(st.integers(1, 4)),
        "window": draw(st.integers(1, 20)),
    }
    bucket_of = rng.integers(0, draw(st.integers(1, 3)), len(shard_of))
    return lambda **more: BucketPlan(bucket_of, shard_of, **(options | more)), bucket_of


@settings(max_examples=50, deadline=None)
@given(plans(), st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(0, 10**12))
def test_ranks_workers_and_entries_give_one_sequence_of_global_batches(made, parts, workers, start):
    make, bucket_of = made
    whole = make()
    streams = [make() for _ in range(parts)]  # a rank each
    for step in range(start, start + 3 * workers):
        bucket, rows, visits = whole.batch(step)
        assert set(bucket_of[rows]) == {bucket}
        pieces = [streams[rank].batch(step, rank, parts) for rank in range(parts)]
        assert {piece[0] for piece in pieces} == {bucket}
        assert np.array_equal(np.concatenate([piece[1] for piece in pieces]), rows)
        assert np.array_equal(np.concatenate([piece[2] for piece in pieces]), visits)
    for worker in range(workers):  # each makes every workers-th batch, in an instance of its own
        mine = make()
        for step in range(start + worker, start + 3 * workers, workers):
            for ours, theirs in zip(mine.batch(step), whole.batch(step), strict=True):
                assert np.array_equal(ours, theirs)


@settings(max_examples=40, deadline=None)
@given(plans())
def test_each_sample_comes_exactly_once_an_epoch_of_its_bucket(made):
    make, bucket_of = made
    plan = make()
    places = defaultdict(list)
    for step in range(2 * len(plan)):
        bucket, rows, visits = plan.batch(step)
        places[bucket] += list(zip(rows.tolist(), visits.tolist(), strict=True))
    for bucket, seen in places.items():
        members = np.flatnonzero(bucket_of == bucket).tolist()
        for first in range(0, len(seen), len(members)):
            epoch = seen[first : first + len(members)]
            assert sorted(row for row, _ in epoch) == members
            assert {visit for _, visit in epoch} == {first // len(members)}
    counts = Counter(row for seen in places.values() for row, _ in seen)
    assert set(counts.values()) == {2 * plan.batch_size}  # after n steps, each as often, whatever its bucket
    assert len(counts) == len(bucket_of)


def test_one_bucket_is_the_plan_itself():
    shard_of = np.repeat(np.arange(5), 7)
    options = {"seed": 3, "lanes": 2, "window": 5}
    plan = BucketPlan(np.zeros(35, int), shard_of, sizes=[(64, 64)], batch_size=8, **options)
    alone = SampleOrder(shard_of=shard_of, **options)
    for step in (0, 1, 4, 10**9):
        rows, visits = alone.rows(8 * step, 8)
        bucket, *batch = plan.batch(step)
        assert bucket == 0
        assert np.array_equal(batch[0], rows)
        assert np.array_equal(batch[1], visits)


def test_a_million_samples_are_entered_anywhere_at_once():
    rng = np.random.default_rng(0)
    bucket_of, shard_of = rng.choice(3, 10**6, p=[0.2, 0.7, 0.1]), np.repeat(np.arange(200), 5000)
    options = {"sizes": SIZES, "batch_size": 256, "seed": 0, "lanes": 8, "window": 4096}
    plan = BucketPlan(bucket_of, shard_of, **options)
    plan.batch(0)
    for step in (10**9, 10**9 + 1, 10**15):
        begin = time.perf_counter()
        bucket, rows, visits = plan.batch(step)
        assert time.perf_counter() - begin < 5  # no loop over what came before
        assert set(bucket_of[rows]) == {bucket}
        assert visits.max() == pytest.approx(step * 256 / 10**6, rel=1e-3)


def test_sizes_use_their_area_and_come_with_their_mirrors():
    assert Buckets().sizes() == [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]
    for rule in (Buckets(area=1024**2), Buckets(area=256**2, multiple=8, max_aspect=3.0)):
        sizes = rule.sizes()
        assert sorted((w, h) for h, w in sizes) == sizes
        side = math.isqrt(rule.area)
        assert (side, side) in sizes
        for h, w in sizes:
            assert h % rule.multiple == w % rule.multiple == 0
            assert h * w <= rule.area < min((h + rule.multiple) * w, h * (w + rule.multiple))
            assert max(h, w) <= rule.max_aspect * min(h, w)


def test_the_bucket_is_that_of_the_nearest_aspect():
    height, width = np.array([100, 100, 300, 141, 142, 0]), np.array([100, 250, 100, 100, 100, 0])
    assert nearest_bucket(height, width, SIZES).tolist() == [1, 0, 2, 1, 2, 1]


def test_the_table_says_what_is_in_the_buckets():
    plan = BucketPlan(
        np.array([0, 1, 1, 1]), np.zeros(4, int), sizes=SIZES, batch_size=2, seed=0, lanes=1, window=9
    )
    lines = [line.split() for line in plan.table().splitlines()]
    assert lines[1:] == [
        ["64", "x", "128", "1", "0.5"],
        ["96", "x", "96", "3", "1.5"],
        ["128", "x", "64", "0", "0.0"],
    ]


@pytest.mark.parametrize(
    ("buckets", "says"),
    [
        (lambda: checked_sizes([[64, 60]]), r"multiples of 8, got \[64, 60\]"),
        (lambda: checked_sizes([[64]]), r"\[height, width\]"),
        (lambda: checked_sizes([[64, 64], [64, 64]]), r"different sizes"),
        (lambda: checked_sizes([]), r"at least one"),
        (lambda: Buckets(multiple=12), r"multiple of 8, got 12"),
        (lambda: Buckets(area=100), r"area must be"),
        (lambda: Buckets(max_aspect=0.5), r"max_aspect must be"),
    ],
)
def test_sizes_that_cannot_be_are_refused(buckets, says):
    with pytest.raises(ValueError, match=says):
        buckets()
