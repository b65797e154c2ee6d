"""Configs of a command as plain dicts."""

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from ldm.cli.compose import compose
from ldm.utils.errors import UserError


def test_a_config_is_plain_and_resolved():
    config = compose("train", ["experiment=tiny", "seed=7"])
    assert type(config) is dict
    assert type(config["trainer"]) is dict
    assert config["data"]["seed"] == 7
    assert "hydra" not in config
    assert config["paths"]["run"].endswith(config["paths"]["run"].rpartition("/tiny/")[2])


def test_keys_with_the_name_of_a_group_take_values():
    assert compose("sample", ["prediction=eps"])["prediction"] == "eps"
    assert compose("sample", ["prediction=null"])["prediction"] is None


def test_options_of_a_folder(tmp_path):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("lr: 3.0\n")
    assert compose("train", ["optimizer=mine"], tmp_path)["optimizer"] == {"lr": 3.0}


def test_nothing_of_hydra_is_left_behind():
    before = HydraConfig.instance().cfg  # of a command that ran in this process
    compose("sample")
    assert not GlobalHydra.instance().is_initialized()
    assert HydraConfig.instance().cfg is before


def test_a_failing_interpolation_names_its_key():
    with pytest.raises(UserError, match=r"^data\.seed: "):
        compose("train", ["data.seed=${nowhere}"])
