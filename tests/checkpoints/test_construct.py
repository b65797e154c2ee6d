import functools

import pytest

from ldm.checkpoints.construct import construct
from ldm.diffusion.prediction import Velocity
from ldm.diffusion.process import Diffusion
from ldm.diffusion.timesteps import trailing


def test_nested_nodes_are_built_from_the_inside():
    diffusion = construct(
        {
            "_target_": "ldm.diffusion.process.Diffusion",
            "schedule": {"_target_": "ldm.diffusion.schedule.cosine", "num_train_timesteps": 10},
            "prediction": {"_target_": "ldm.diffusion.prediction.Velocity"},
            "weighting": {"_target_": "ldm.diffusion.weighting.MinSNR", "gamma": 3.0},
        }
    )
    assert isinstance(diffusion, Diffusion)
    assert diffusion.prediction == Velocity()
    assert diffusion.schedule.num_train_timesteps == 10


def test_partial_nodes_wait_for_their_arguments():
    grid = construct({"_target_": "ldm.diffusion.timesteps.leading", "_partial_": True, "offset": 1})
    assert isinstance(grid, functools.partial)
    assert grid(10, 2).tolist() == [6.0, 1.0, -1.0]
    plain = construct({"_target_": "ldm.diffusion.timesteps.trailing", "_partial_": True})
    assert plain(10, 3).tolist() == trailing(10, 3).tolist()


@pytest.mark.parametrize("value", [3, 1.5, "text", None, True, [1, {"a": [2]}], {"a": {"b": 1}}])
def test_plain_values_are_themselves(value: object):
    assert construct(value) == value


def test_values_out_of_range_name_node_and_reason():
    with pytest.raises(ValueError, match=r"\(sampling\.scheduler\): eta must be in \[0, 1\], got 2"):
        construct({"scheduler": {"_target_": "ldm.schedulers.ddim.DDIM", "eta": 2.0}}, "sampling")


def test_other_directives_are_refused():
    with pytest.raises(ValueError, match="_args_"):
        construct({"_target_": "ldm.schedulers.ddim.DDIM", "_args_": [1]})
