"""The arithmetic of plans, on a step that is made up."""

import numpy as np
import pytest

from ldm.planning.estimate import STRATEGIES, Cluster, buffers, largest_batch, memory, plan
from ldm.planning.simulated_step import SimulatedStep
from ldm.utils.size import GIB

PLAIN, AGAIN, SHARDED, _ = STRATEGIES


def step(per_image=GIB, again=0):
    """4 GiB of parameters in four blocks and a rest; most is alive before or after the gradients are."""
    return SimulatedStep(
        parameters=GIB,
        state={"parameters": 4 * GIB, "optimizer": 8 * GIB, "ema": 4 * GIB, "frozen": GIB},
        gradients=np.array([0.0, 4.0 * GIB]),
        fixed=np.array([3.0 * GIB, 0.0]),
        per_image=np.array([per_image, per_image], dtype=np.float64),
        blocks=(GIB // 2, GIB // 2, GIB, GIB),
        flops={"trained": 10**12, "frozen": 10**11, "backward": 2 * 10**12 + again},
    )


def cluster(**changes):
    values = {"devices": 4, "nodes": 2, "memory_gib": 34.0, "reserved_gib": 2.0, "peak_tflops": 100.0}
    return Cluster(**(values | {"mfu": 0.31, "price": 2.0} | changes))


def test_the_peak_is_at_the_worst_moment_not_the_sum_of_the_worst():
    seen = step()
    assert seen.peak(1) == (4 * GIB, GIB)
    assert seen.peak(1, share=0.5) == (0, 4 * GIB)  # half of the gradients is less than what went before


def test_memory_of_a_rank_by_kind():
    whole = memory(step(), cluster(), sharded=False, batch=2)
    parts = memory(step(), cluster(), sharded=True, batch=2)
    assert whole["buffers"] == whole["parameters"] == 4 * GIB
    assert parts["parameters"] == whole["parameters"] // 4
    assert parts["optimizer"] == whole["optimizer"] // 4
    assert parts["ema"] == whole["ema"] // 4
    assert parts["frozen"] == whole["frozen"]
    assert parts["buffers"] == 1 * GIB + 2 * 2 * GIB  # the rest, two blocks and their gradients


def test_a_single_process_exchanges_nothing():
    alone = cluster(devices=1, nodes=1)
    assert buffers(step(), alone, sharded=False) == buffers(step(), alone, sharded=True) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_largest_micro_batch_fits_and_the_next_does_not(strategy):
    largest = largest_batch(step(), cluster(), strategy.sharded)
    for batch, fits in ((largest, True), (largest + 1, False)):
        total = sum(memory(step(), cluster(), strategy.sharded, batch).values())
        assert (total <= cluster().room) == fits


def test_the_micro_batch_divides_a_ranks_images():
    made = plan({False: step()}, cluster(), PLAIN, batch_size=8 * 6, images=0)
    assert made.largest == 7
    assert (made.micro_batch, made.accumulate) == (6, 1)
    made = plan({False: step()}, cluster(), PLAIN, batch_size=8 * 10, images=0)
    assert (made.micro_batch, made.accumulate) == (5, 2)


def test_time_and_cost():
    made = plan({False: step()}, cluster(), PLAIN, batch_size=8, images=86_400 * 160)
    assert made.images_per_second == pytest.approx(8 * 100e12 * 0.31 / 3.1e12)
    assert made.days == pytest.approx(2.0)
    assert made.cost == pytest.approx(2 * 24 * 8 * 2.0)


def test_what_is_computed_again_takes_its_time():
    steps = {False: step(), True: step(again=9 * 10**11)}
    plain, again = (plan(steps, cluster(), s, batch_size=8, images=8) for s in (PLAIN, AGAIN))
    assert plain.images_per_second / again.images_per_second == pytest.approx(4.0 / 3.1)


def test_what_does_not_fit_is_planned_for_one_image():
    made = plan({False: step()}, cluster(memory_gib=20.0), PLAIN, batch_size=16, images=1)
    assert (made.largest, made.micro_batch) == (0, 1)
    assert made.total > 18 * GIB
    assert plan({False: step()}, cluster(memory_gib=20.0), SHARDED, batch_size=16, images=1).largest > 0


def test_images_that_cannot_be_spread_are_refused():
    with pytest.raises(ValueError, match=r"a multiple of 2 nodes x 4 devices, got 12"):
        plan({False: step()}, cluster(), PLAIN, batch_size=12, images=1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("devices", 0), ("nodes", 0), ("memory_gib", 0.0), ("peak_tflops", -1.0), ("mfu", 1.5), ("price", -1.0)],
)
def test_a_cluster_that_cannot_be_is_refused(key, value):
    with pytest.raises(ValueError, match=rf"got {value}"):
        cluster(**{key: value})
