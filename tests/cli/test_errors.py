"""describe tells mistakes, failures and bugs apart."""

import pytest
from hydra.errors import HydraException

from ldm.cli.config import build
from ldm.cli.errors import describe
from ldm.utils.errors import UserError


class MisconfigurationException(Exception):
    """Named like Lightning's."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("a.b: wrong\n  twice"), (2, "a.b: wrong twice")),
        (HydraException("two\nlines"), (2, "two lines")),
        (MisconfigurationException("no GPU"), (2, "no GPU")),
        (OSError("corrupt"), (1, "corrupt")),
        (RuntimeError("No space left on device (os error 28)"), (1, "No space left on device (os error 28)")),
        (ValueError("never raised"), (1, None)),
        (ZeroDivisionError("a bug"), (1, None)),
    ],
)
def test_describe(error, expected):
    assert describe(error) == expected


def test_a_failed_build_names_the_key_and_the_cause():
    from omegaconf import OmegaConf

    node = {
        "_target_": "ldm.training.optim.LRSchedule",
        "warmup_images": 1,
        "total_images": 1,
        "decay_start": 2.0,
    }
    cfg = OmegaConf.create({"lr_schedule": node})
    with pytest.raises(Exception, match="decay_start") as caught:
        build(cfg.lr_schedule)
    status, line = describe(caught.value)
    assert status == 2
    assert line.startswith("lr_schedule.decay_start: must be in [0, 1], got 2.0")


def test_an_implicit_error_in_ldm_is_a_bug():
    from ldm.training.optim import LRSchedule

    broken = LRSchedule(warmup_images=1, total_images=1)
    object.__setattr__(broken, "warmup_images", None)
    with pytest.raises(TypeError) as caught:
        broken(1)
    assert describe(caught.value) == (1, None)
