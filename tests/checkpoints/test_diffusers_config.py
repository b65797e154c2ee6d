"""The configs that Stable Diffusion was published with are our YAMLs, and lead back to themselves."""

import inspect
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


@pytest.mark.parametrize(
    ("make", "given", "says"),
    [
        (words.backbone_node, UNET_1 | {"act_fn": "gelu"}, "act_fn of the unet must be 'silu'"),
        (words.backbone_node, UNET_1 | {"up_block_types": PLAIN}, "up_block_types of the unet must be"),
        (words.backbone_node, UNET_1 | {"cross_attention_dim": [1, 2]}, "must be one number"),
        (words.autoencoder_node, VAE | {"out_channels": 6}, "out_channels of the vae must equal"),
        (words.text_encoder_node, TEXT_1 | {"hidden_act": "relu"}, "hidden_act of the text encoder"),
        (
            words.backbone_node,
            UNET_1 | {"time_embedding_dim": 512},
            "time_embedding_dim of the unet must be 1280",
        ),
        (
            words.backbone_node,
            UNET_1 | {"only_cross_attention": [False, True]},
            "only_cross_attention of the",
        ),
        (words.backbone_node, UNET_1 | {"norm_num_groups": None}, "norm_num_groups of the unet must be"),
        (words.backbone_node, UNET_1 | {"_class_name": "UNet2DModel"}, "must be a UNet2DConditionModel"),
        (words.autoencoder_node, VAE | {"_class_name": "AutoencoderTiny"}, "must be a AutoencoderKL"),
        (words.autoencoder_node, VAE | {"latents_mean": [0.0, 0.1, 0.0, 0.0]}, "latents_mean of the vae"),
        (words.autoencoder_node, VAE | {"shift_factor": 0.1}, "shift_factor of the vae"),
    ],
)
def test_what_our_nets_do_not_have_is_named(make: Any, given: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        make(given)


SPELLINGS: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (words.backbone_node, UNET_1, {"only_cross_attention": [False] * 4, "dual_cross_attention": None}),
    (words.backbone_node, UNET_1, {"time_embedding_dim": 1280, "class_embed_type": None}),
    (words.backbone_node, UNET_1, {"mid_block_only_cross_attention": None, "mid_block_scale_factor": 1.0}),
    (words.backbone_node, UNET_1, {"layers_per_block": [2, 2, 2, 2], "cross_attention_dim": [768] * 4}),
    (words.backbone_node, UNET_1, {"transformer_layers_per_block": [1, 1, 1, 1], "dropout": None}),
    (words.backbone_node, UNET_1, {"act_fn": "swish", "conv_in_kernel": [3, 3], "norm_eps": 0.00001}),
    (words.backbone_node, UNET_1, {"upcast_attention": True, "num_attention_heads": None}),
    (words.autoencoder_node, VAE, {"shift_factor": 0.0, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}),
    (words.autoencoder_node, VAE, {"force_upcast": False, "use_quant_conv": True, "act_fn": "swish"}),
    (words.text_encoder_node, TEXT_1, {"layer_norm_eps": 0.00001, "projection_dim": 512, "bos_token_id": 3}),
]


@pytest.mark.parametrize(("make", "given", "change"), SPELLINGS)
def test_other_spellings_of_a_value_change_nothing(make: Any, given: dict[str, Any], change: dict[str, Any]):
    assert make(given | change) == make(given)


def test_fields_that_are_left_out_have_the_values_of_diffusers():
    for make, given, fields in (
        (words.backbone_node, UNET_1, ["in_channels", "out_channels", "norm_num_groups", "layers_per_block"]),
        (words.autoencoder_node, VAE, ["in_channels", "out_channels", "latent_channels", "norm_num_groups"]),
        (words.text_encoder_node, TEXT_1, ["max_position_embeddings", "vocab_size", "hidden_act"]),
    ):
        assert make({key: value for key, value in given.items() if key not in fields}) == make(given)


def test_the_text_config_of_a_whole_clip_is_read():
    assert words.text_encoder_node({"text_config": TEXT_2, "projection_dim": 7}) == words.text_encoder_node(
        TEXT_2
    )


@pytest.mark.parametrize("width", [64, 1000, 3073, 4096])
def test_the_width_of_the_mlp_is_any(width: int):
    node = words.text_encoder_node(TEXT_1 | {"intermediate_size": width})
    assert node["mlp_width"] == width
    assert words.text_encoder_json(node)["intermediate_size"] == width


@pytest.mark.parametrize(
    ("latents", "pixels"), [(64, 512), ([96, 64], [768, 512]), ([64, 64], 512), (None, 512)]
)
def test_latents_may_be_rectangular(latents: Any, pixels: Any):
    assert words.image_size(latents, 8) == pixels
    if latents is not None:
        assert words.image_size(words.sample_size(pixels, 8), 8) == pixels


@pytest.mark.parametrize("latents", [[64], [64, 64, 64], "64", [64, 0], 1.5])
def test_a_size_of_another_kind_is_refused(latents: Any):
    with pytest.raises(ValueError, match="sample_size of the unet must be one number or two"):
        words.image_size(latents, 8)


def test_a_net_that_reads_the_guidance_scale_leads_there_and_back():
    node = words.backbone_node(UNET_1 | {"time_cond_proj_dim": 256})
    assert node["guidance_dim"] == 256
    back = words.backbone_json(node, 512, 8)
    assert back["time_cond_proj_dim"] == 256
    assert words.backbone_node(back) == node


# Fields of diffusers' classes that change no result of ours: precision, training, other options' details.
IDLE = {
    "unet": {"upcast_attention", "addition_time_embed_dim", "addition_embed_type_num_heads"}
    | {"projection_class_embeddings_input_dim"},
    "vae": {"sample_size", "force_upcast"},
}
READ = {
    "unet": {"sample_size", "time_cond_proj_dim", "time_embedding_dim", "use_linear_projection", "dropout"}
    | {"transformer_layers_per_block", "cross_attention_dim", "attention_head_dim", "num_attention_heads"}
    | {"block_out_channels", "down_block_types", "up_block_types"},
    "vae": {"block_out_channels", "down_block_types", "up_block_types"},
}


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_every_field_of_the_reference_is_read_fixed_or_idle(part: str):
    diffusers = pytest.importorskip("diffusers")
    kind = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}[part]
    known = {"unet": words.UNET_FIXED | words.UNET_DEFAULTS, "vae": words.VAE_FIXED | words.VAE_DEFAULTS}[
        part
    ]
    fields = set(inspect.signature(kind.__init__).parameters) - {"self"}
    assert fields == known.keys() | READ[part] | IDLE[part]


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
