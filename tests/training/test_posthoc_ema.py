"""Which stored averages are added up, and with which weights."""

from pathlib import Path

import pytest

from ldm.checkpoints.snapshots import Snapshot
from ldm.training.posthoc_ema import posthoc_average, terms_of
from ldm.utils.errors import UserError

SNAPSHOTS = [
    Snapshot(path=Path(f"{n}.safetensors"), images=n, sigma_rel=(0.05, 0.1), config={}, autoencoder="")
    for n in (100, 200, 300, 400)
]


def test_a_stored_average_is_itself():
    ((snapshot, width, weight),) = terms_of(SNAPSHOTS, 0.1, 300, 0.1)
    assert (snapshot, width) == (SNAPSHOTS[2], 0.1)
    assert weight == pytest.approx(1.0)


def test_other_widths_are_sums_of_earlier_averages_whose_weights_add_up_to_one():
    terms = terms_of(SNAPSHOTS, 0.07, 300, 0.2)
    assert {snapshot.images for snapshot, _, _ in terms} <= {100, 200, 300}
    assert sum(weight for _, _, weight in terms) == pytest.approx(1.0)


def test_the_last_snapshot_is_the_default():
    assert terms_of(SNAPSHOTS, 0.05, None, 0.1)[0][0] is SNAPSHOTS[-1]


def test_points_and_widths_out_of_reach_are_refused(tmp_path):
    with pytest.raises(UserError, match="images must be those of a snapshot, 100, 200, 300, 400, got 7"):
        terms_of(SNAPSHOTS, 0.1, 7, 0.1)
    with pytest.raises(UserError, match="sigma_rel must be within reach of the 8 averages kept"):
        terms_of(SNAPSHOTS, 0.004, None, 0.1)
    with pytest.raises(UserError, match="run must be the directory of a training run"):
        posthoc_average(tmp_path / "none", 0.1)
