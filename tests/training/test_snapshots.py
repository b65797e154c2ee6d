import pytest

from ldm.training.power_ema import power_functions
from ldm.training.snapshots import EMASnapshots

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "fp32"}, r"dtype must be fp16 or bf16, got fp32 \(callbacks\.ema\.dtype\)"),
        (
            {"every_n_images": 0},
            r"every_n_images must be at least 1, got 0 \(callbacks\.ema\.every_n_images\)",
        ),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, changes, says):
    values = {"folder": str(tmp_path), "every_n_images": 10, "budget_gigabytes": 1.0}
    with pytest.raises(ValueError, match=says):
        EMASnapshots(**(values | changes))


def test_a_width_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match=r"each sigma_rel once, got \[0\.1, 0\.1\] \(task\.power_ema\)"):
        power_functions([0.1, 0.1])


def test_a_stage_without_averages_writes_nothing(small, tmp_path):
    callback = EMASnapshots(str(tmp_path / "ema"), every_n_images=1, budget_gigabytes=1.0)
    small.fit(tmp_path, small.Module(), callback)
    assert not (tmp_path / "ema").exists()
