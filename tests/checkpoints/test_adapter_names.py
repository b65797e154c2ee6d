"""Names in files of adapters."""

import pytest

from ldm.checkpoints.adapter_names import Place, foreign, places_of, split

DIFFUSERS = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
PLACE = Place("backbone", "down.0.attentions.0.blocks.0.attn1.to_q.weight")
NODE = {"channels": [32, 32], "layers_per_block": 1, "attention": ["cross", "none"]}


@pytest.mark.parametrize(
    ("name", "layer", "role"),
    [
        ("unet.a.to_q.lora_A.weight", "unet.a.to_q", "down"),
        ("a.to_q.lora_B.default.weight", "a.to_q", "up"),
        ("lora_unet_a_to_q.lora_up.weight", "lora_unet_a_to_q", "up"),
        ("lora_unet_a.alpha", "lora_unet_a", "alpha"),
        ("te.q_proj.lora_linear_layer.down.weight", "te.q_proj", "down"),
        ("a.attn1.processor.to_q_lora.down.weight", "a.attn1.to_q", "down"),
        ("a.attn1.processor.to_out_lora.up.weight", "a.attn1.to_out.0", "up"),
        ("text_encoder.b.self_attn.to_v_lora.up.weight", "text_encoder.b.self_attn.v_proj", "up"),
        ("text_encoder.b.self_attn.to_out_lora.down.weight", "text_encoder.b.self_attn.out_proj", "down"),
        ("a.lora_magnitude_vector.weight", "a", "magnitude_vector"),
        ("a.dora_scale", "a", "magnitude"),
        ("a.hada_w1_a", "a", "hada_w1_a"),
        ("a.lokr_w2_b", "a", "lokr_w2_b"),
        ("a.lora_mid.weight", "a", "mid"),
        ("a.diff_b", "a", "bias"),
        ("a.lora_embedding_A", "a", "A"),
        ("base_model.model.conv_in.weight", "base_model.model.conv_in", "whole"),
        ("base_model.model.a.base_layer.bias", "base_model.model.a", "whole_bias"),
    ],
)
def test_a_name_is_a_layer_and_a_role(name, layer, role):
    assert split(name) == (layer, role)


@pytest.mark.parametrize("name", ["conv_in.weight", "lora_A.weight", "a.b", "emb_params", "alpha"])
def test_other_names_are_none_of_adapters(name):
    assert split(name) is None


@pytest.mark.parametrize(
    "layer",
    [
        f"unet.{DIFFUSERS}.to_q",
        f"{DIFFUSERS}.to_q",
        f"base_model.model.{DIFFUSERS}.to_q",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q",
        "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q",
        "backbone.down.0.attentions.0.blocks.0.attn1.to_q",
    ],
)
def test_a_layer_of_the_backbone_is_found_by_all_of_its_names(layer):
    assert places_of("backbone", NODE, [PLACE.key])[f"{layer}.weight"] == PLACE


@pytest.mark.parametrize(
    "prefix",
    ["text_encoder.text_model.", "text_encoder.", "text_model.", "base_model.model.", "lora_te_", ""],
)
def test_query_key_and_value_of_the_text_encoder_are_parts_of_one_parameter(prefix):
    key = "tower.transformer.resblocks.3.attn.in_proj_bias"
    layer = f"{prefix}encoder.layers.3.self_attn.k_proj"
    layer = layer.replace(".", "_") if prefix == "lora_te_" else layer
    assert places_of("text_encoder", {}, [key])[f"{layer}.bias"] == Place("text_encoder", key, 1, 3)


def test_the_autoencoder_has_no_adapters():
    assert places_of("autoencoder", NODE, ["encoder.conv_in.weight"]) == {}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", "SDXL"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("lora_unet_a.oft_blocks", "OFT"),
        ("lora_unet_a.on_input", "not supported"),
        ("image_proj.latents", "IP-Adapter"),
        ("down_blocks.0.motion_modules.0.to_q.lora_A.weight", "AnimateDiff"),
        ("<cat>", "textual inversion"),
        ("emb_params", "textual inversion"),
        ("conv_in.weight", ""),
    ],
)
def test_names_of_other_things_tell_what_they_are(name, says):
    told = foreign(["unknown", name])
    assert says in told if says else told == ""
