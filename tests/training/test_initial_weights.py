"""Which configs fit which checkpoints; whole runs are in cli/test_fine_tuning.py."""

import json

import pytest

from ldm.checkpoints.converter import write_checkpoint
from ldm.checkpoints.diffusers_config import backbone_json, backbone_node
from ldm.cli.compose import compose
from ldm.models.unet import UNet
from ldm.training.initial_weights import check_same, load_initial, reference, without_pretrained
from ldm.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def composed(*overrides):
    return compose("train", ["paths.run=/nowhere", *overrides])


@pytest.mark.parametrize("experiment", ["sd15", "sd2_base", "sd2_v", "sd_scale"])
def test_the_nets_of_the_experiments_are_those_of_a_folder_of_diffusers(experiment):
    node = composed(f"experiment={experiment}")["backbone"]
    folder = backbone_node(backbone_json(node, 512, 8))
    check_same("backbone", node, folder, UNet)
    check_same("backbone", node | {"dropout": 0.5}, folder, UNet)
    with pytest.raises(UserError, match=r"^backbone.channels: must be \[320, 640, 1280, 1280\]"):
        check_same("backbone", node | {"channels": [320, 640, 1280, 640]}, folder, UNet)
    with pytest.raises(UserError, match="position_size"):
        check_same("backbone", node | {"position_size": 64}, folder, UNet)


def overrides(model, *names):
    return [
        f"{name}.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for name in names
        for key, value in model.config[name].items()
        if key != "_target_"
    ]


@pytest.mark.parametrize(("experiment", "says"), [("sd2_base", "Epsilon"), ("sd2_v", "Velocity")])
def test_an_original_file_of_2x_predicts_what_the_config_says(experiment, says, stable_diffusion, tmp_path):
    """Such a file does not record it."""
    model = stable_diffusion("sd2", 0)
    write_checkpoint(model, tmp_path / "a.ckpt", "original")
    nets = overrides(model, "text_encoder", "backbone")
    config = composed(f"experiment={experiment}", *nets, f"init_checkpoint={tmp_path}/a.ckpt")
    assert load_initial(config).config["diffusion"]["prediction"]["_target_"].endswith(says)


def test_another_prediction_than_that_of_the_checkpoint_is_warned_of(stable_diffusion, tmp_path, caplog):
    model = stable_diffusion("sd1", 0)
    write_checkpoint(model, tmp_path / "a", "diffusers")
    nets = overrides(model, "text_encoder", "backbone")
    given = ["experiment=sd15", *nets, f"init_checkpoint={tmp_path}/a"]
    load_initial(composed(*given))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    load_initial(composed(*given, "prediction=v"))
    assert "Epsilon" in caplog.text
    assert "Velocity" in caplog.text


def test_a_run_without_a_checkpoint_starts_from_none():
    assert load_initial(composed("experiment=tiny")) is None


def test_a_base_on_this_machine_is_referred_to_by_its_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    assert reference("base") == str(tmp_path / "base")
    assert reference("owner/model") == "owner/model"
    assert reference(None) is None


def test_pretrained_weights_are_not_fetched_beside_those_of_a_checkpoint():
    config = composed("experiment=sd15")
    changed = without_pretrained(config)
    assert config["text_encoder"]["pretrained"] is not None
    assert changed["text_encoder"]["pretrained"] is None
    assert changed["task"]["text_encoder"]["pretrained"] is None
