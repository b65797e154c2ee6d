"""describe tells mistakes, failures and bugs apart."""

import pytest
from hydra.errors import HydraException
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ldm.checkpoints.assemble import MismatchError
from ldm.cli.errors import describe
from ldm.utils.construct import construct
from ldm.utils.errors import Failure, UserError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("a.b: wrong\n  twice"), (2, "a.b: wrong twice")),
        (HydraException("two\nlines"), (2, "two lines")),
        (MisconfigurationException("no GPU"), (2, "no GPU")),
        (OSError("corrupt"), (1, "corrupt")),
        (RuntimeError("No space left on device (os error 28)"), (1, "No space left on device (os error 28)")),
        (Failure("the loss\ndiverged"), (1, "the loss diverged")),
        (MismatchError("a.safetensors:\n  b\n  c"), (2, "a.safetensors:\n  b\n  c")),
        (ValueError("not foreseen"), (1, None)),
        (ZeroDivisionError("a bug"), (1, None)),
    ],
)
def test_describe(error, expected):
    assert describe(error) == expected


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["seed", "guidance_scale"], "guidance_scale: must be a number >= 0, got -1"),
        (["sampling.guidance_scale"], "sampling.guidance_scale: must be a number >= 0, got -1"),
        (["a.guidance_scale", "b.guidance_scale"], "guidance_scale must be a number >= 0, got -1"),
        (["seed"], "guidance_scale must be a number >= 0, got -1"),
    ],
)
def test_the_argument_of_a_call_becomes_the_key_it_comes_from(keys, line):
    assert describe(UserError("guidance_scale must be a number >= 0, got -1"), keys) == (2, line)


def test_a_path_named_like_a_key_is_no_key():
    assert describe(UserError("run is no folder of diffusers"), ["run"]) == (
        2,
        "run is no folder of diffusers",
    )


def test_a_failed_build_names_the_key_and_the_cause():
    node = {
        "_target_": "ldm.training.optim.LRSchedule",
        "warmup_images": 1,
        "total_images": 1,
        "decay_start": 2.0,
    }
    with pytest.raises(Exception, match="decay_start") as caught:
        construct(node, "lr_schedule")
    status, line = describe(caught.value)
    assert status == 2
    assert line.startswith("lr_schedule.decay_start: must be in [0, 1], got 2.0")
