"""Which configs fit which checkpoints; whole runs are in test_fine_tuning.py."""

import json

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from ldm.checkpoints.converter import write_checkpoint
from ldm.checkpoints.diffusers_config import backbone_json, backbone_node
from ldm.cli.initial import difference, load_initial, reference
from ldm.cli.resolvers import register_resolvers
from ldm.models.unet import UNet

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def composed(*overrides):
    register_resolvers()
    with initialize_config_module("ldm.conf", version_base="1.3"):
        return compose("train", ["paths.run=/nowhere", *overrides])


@pytest.mark.parametrize("experiment", ["sd15", "sd2_base", "sd2_v", "sd_scale"])
def test_the_nets_of_the_experiments_are_those_of_a_folder_of_diffusers(experiment):
    node = OmegaConf.to_container(composed(f"experiment={experiment}").backbone, resolve=True)
    folder = backbone_node(backbone_json(node, 512, 8))
    assert difference("backbone", node, folder, UNet) is None
    assert difference("backbone", node | {"dropout": 0.5}, folder, UNet) is None
    changed = node | {"channels": [320, 640, 1280, 640]}
    assert "backbone.channels: must be [320, 640, 1280, 1280]" in difference(
        "backbone", changed, folder, UNet
    )
    assert "position_size" in difference("backbone", node | {"position_size": 64}, folder, UNet)


def overrides(model, *names):
    return [
        f"{name}.{key}={json.dumps(value)}"
        for name in names
        for key, value in model.config[name].items()
        if key != "_target_"
    ]


@pytest.mark.parametrize(("experiment", "says"), [("sd2_base", "Epsilon"), ("sd2_v", "Velocity")])
def test_an_original_file_of_2x_predicts_what_the_config_says(experiment, says, stable_diffusion, tmp_path):
    """Such a file does not say it."""
    model = stable_diffusion("sd2", 0)
    write_checkpoint(model, tmp_path / "a.ckpt", "original")
    nets = overrides(model, "text_encoder", "backbone")
    cfg = composed(f"experiment={experiment}", *nets, f"init_checkpoint={tmp_path}/a.ckpt")
    assert load_initial(cfg).config["diffusion"]["prediction"]["_target_"].endswith(says)
    assert reference(cfg) == str(tmp_path / "a.ckpt")


def test_training_on_with_another_prediction_is_said(stable_diffusion, tmp_path, caplog):
    model = stable_diffusion("sd1", 0)
    write_checkpoint(model, tmp_path / "a", "diffusers")
    nets = overrides(model, "text_encoder", "backbone")
    ask = ["experiment=sd15", *nets, f"init_checkpoint={tmp_path}/a"]
    load_initial(composed(*ask))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    load_initial(composed(*ask, "prediction=v"))
    assert "Epsilon" in caplog.text
    assert "Velocity" in caplog.text


def test_a_run_without_a_checkpoint_starts_from_none():
    cfg = composed("experiment=tiny")
    assert load_initial(cfg) is None
    assert reference(cfg) is None
