"""The configs that Stable Diffusion was published with are our YAMLs, and lead back to themselves."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ldm.checkpoints import diffusers_config as words

CONF = Path(__file__).parents[2] / "conf"
CROSS, PLAIN = ["CrossAttnDownBlock2D"] * 3, ["DownBlock2D"]
UNET_1: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": CROSS + PLAIN,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
UNET_2 = UNET_1 | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "use_linear_projection": True,
    "sample_size": 96,
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT_1: dict[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}
TEXT_2 = TEXT_1 | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
}
PNDM: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def ours(group: str, name: str, node: dict[str, Any]) -> dict[str, Any]:
    """The arguments in a YAML that a node of a checkpoint has, too."""
    files = {"autoencoder": "sd", group: name}
    tree = OmegaConf.create({key: OmegaConf.load(CONF / key / f"{file}.yaml") for key, file in files.items()})
    found = OmegaConf.to_container(tree[group], resolve=True)
    assert isinstance(found, dict)
    return {key: found[key] for key in node}


@pytest.mark.parametrize(
    ("name", "given"),
    [("sd15", UNET_1), ("sd15_inpaint", UNET_1 | {"in_channels": 9}), ("sd2", UNET_2)],
)
def test_published_unets_are_our_yamls_and_lead_back(name: str, given: dict[str, Any]):
    node = words.backbone_node(given)
    assert node == ours("backbone", name, node)
    back = words.backbone_json(node, given["sample_size"] * 8, 8)
    assert {key: back[key] for key in given if key in back} == {k: v for k, v in given.items() if k in back}
    assert words.backbone_node(back) == node


def test_the_published_autoencoder_is_our_yaml_and_leads_back():
    node = words.autoencoder_node(VAE)
    assert node == ours("autoencoder", "sd", node)
    assert VAE.items() <= words.autoencoder_json(node, 512).items()


@pytest.mark.parametrize(("name", "given", "pad"), [("clip", TEXT_1, 49_407), ("clip_h", TEXT_2, 0)])
def test_published_text_encoders_are_our_yamls_and_lead_back(name: str, given: dict[str, Any], pad: int):
    node = words.text_encoder_node(given)
    assert node["pad_token"] == pad
    assert node == ours("text_encoder", name, node)
    back = words.text_encoder_json(node)
    assert {key: back[key] for key in given if key in back} == {k: v for k, v in given.items() if k in back}
    assert words.text_encoder_node(back, pad_token=1)["pad_token"] == 1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_published_scheduler_is_sampled_by_ddim_on_its_grid(prediction: str):
    diffusion, sampling = words.diffusion_nodes(PNDM | {"prediction_type": prediction})
    assert diffusion["schedule"]["_target_"] == "ldm.diffusion.schedule.scaled_linear"
    assert sampling["timesteps"] == {
        "_target_": "ldm.diffusion.timesteps.leading",
        "_partial_": True,
        "final": 0.0,  # set_alpha_to_one=False: the last step ends at the first time of the table
        "offset": 1,
    }
    assert sampling["thresholding"] is None
    back = words.scheduler_json(diffusion, sampling)
    assert back["prediction_type"] == prediction
    assert words.diffusion_nodes(back) == (diffusion, sampling)


@pytest.mark.parametrize(
    "scheduler",
    [
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing", "clip_sample": False},
        {"beta_schedule": "linear", "clip_sample": True, "clip_sample_range": 2.0},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
        {"timestep_spacing": "linspace", "prediction_type": "sample"},
    ],
)
def test_other_schedulers_lead_there_and_back(scheduler: dict[str, Any]):
    nodes = words.diffusion_nodes(scheduler)
    assert words.diffusion_nodes(words.scheduler_json(*nodes)) == nodes


def nodes_with(**changes: Any) -> tuple[Any, Any]:
    diffusion, sampling = words.diffusion_nodes(PNDM)
    return diffusion | changes.pop("diffusion", {}), sampling | changes


@pytest.mark.parametrize(
    ("diffusion", "says"),
    [
        (
            {"schedule": {"_target_": "ldm.diffusion.continuous.FlowMatching"}},
            "schedule of the folder must be",
        ),
        (
            {"prediction": {"_target_": "ldm.diffusion.prediction.FlowVelocity"}},
            "prediction of the folder must",
        ),
    ],
)
def test_a_diffusion_without_words_is_refused(diffusion: Any, says: str):
    with pytest.raises(ValueError, match=says):
        words.scheduler_json(*nodes_with(diffusion=diffusion))


def test_sampling_settings_without_words_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture):
    karras = {"_target_": "ldm.diffusion.level_grids.karras", "_partial_": True}
    written = words.scheduler_json(
        *nodes_with(timesteps=karras, thresholding={"_target_": "ldm.diffusion.thresholding.Dynamic"})
    )
    assert (written["timestep_spacing"], written["clip_sample"]) == ("trailing", False)
    assert "karras" in caplog.text
    assert "Dynamic" in caplog.text


@pytest.mark.parametrize(
    ("make", "given", "says"),
    [
        (words.backbone_node, UNET_1 | {"act_fn": "gelu"}, "act_fn of the unet must be 'silu'"),
        (words.backbone_node, UNET_1 | {"up_block_types": PLAIN}, "up_block_types of the unet must be"),
        (words.backbone_node, UNET_1 | {"cross_attention_dim": [1, 2]}, "must be one number"),
        (words.autoencoder_node, VAE | {"out_channels": 6}, "out_channels of the vae must equal"),
        (words.text_encoder_node, TEXT_1 | {"hidden_act": "relu"}, "hidden_act of the text encoder"),
        (words.diffusion_nodes, PNDM | {"beta_schedule": "sigmoid"}, "beta_schedule of the scheduler"),
        (words.diffusion_nodes, PNDM | {"prediction_type": "flow"}, "prediction_type of the scheduler"),
    ],
)
def test_what_our_nets_do_not_have_is_named(make: Any, given: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        make(given)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda node: words.backbone_json(node, 512, 8), {"position_size": 8}),
        (lambda node: words.backbone_json(node, 512, 8), {"mid_attention": "none"}),
        (lambda node: words.backbone_json(node, 512, 8), {"attention": ["self"] * 4}),
    ],
)
def test_nets_of_another_topology_have_no_place_in_diffusers(make: Any, change: dict[str, Any]):
    with pytest.raises(ValueError, match=r"topology|backbone"):
        make(words.backbone_node(UNET_1) | change)
