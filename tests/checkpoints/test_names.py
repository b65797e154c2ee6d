"""Names of single tensors, as they are published."""

import pytest

from ldm.checkpoints.keymaps import DIFFUSERS, ORIGINAL
from ldm.checkpoints.names import in_single_file, theirs, vae_attention_name

NODE = {"channels": [320, 640, 1280, 1280], "layers_per_block": 2, "attention": ["cross"] * 3 + ["none"]}


@pytest.mark.parametrize(
    ("key", "diffusers", "original"),
    [
        ("conv_in.weight", "conv_in.weight", "input_blocks.0.0.weight"),
        (
            "down.0.resnets.1.conv1.bias",
            "down_blocks.0.resnets.1.conv1.bias",
            "input_blocks.2.0.in_layers.2.bias",
        ),
        (
            "up.0.resnets.2.conv1.weight",
            "up_blocks.0.resnets.2.conv1.weight",
            "output_blocks.2.0.in_layers.2.weight",
        ),
        ("conv_out.bias", "conv_out.bias", "out.2.bias"),
    ],
)
def test_published_names_of_the_unet(key: str, diffusers: str, original: str):
    assert theirs("backbone", NODE, [key], DIFFUSERS) == {key: (diffusers,)}
    assert theirs("backbone", NODE, [key], ORIGINAL) == {key: (original,)}
    whole = in_single_file("backbone", NODE, [key])
    assert whole == {key: (f"model.diffusion_model.{original}",)}


def test_a_name_without_a_place_is_named():
    with pytest.raises(ValueError, match=r"positions of the backbone has no place"):
        theirs("backbone", NODE, ["positions"], DIFFUSERS)


@pytest.mark.parametrize("spelling", [("query", "proj_attn"), ("to_q", "to_out.0"), ("q", "proj_out")])
def test_attention_of_an_autoencoder_has_one_name_in_each_format(spelling: tuple[str, str]):
    query, out = spelling
    for place, column, expected in (
        ("decoder.mid_block.attentions.0", DIFFUSERS, ("to_q", "to_out.0", "group_norm")),
        ("first_stage_model.encoder.mid.attn_1", ORIGINAL, ("q", "proj_out", "norm")),
    ):
        assert vae_attention_name(f"{place}.{query}.weight", column) == f"{place}.{expected[0]}.weight"
        assert vae_attention_name(f"{place}.{out}.bias", column) == f"{place}.{expected[1]}.bias"
        for norm in ("norm", "group_norm"):
            assert vae_attention_name(f"{place}.{norm}.weight", column) == f"{place}.{expected[2]}.weight"
    assert (
        vae_attention_name("encoder.mid.block_1.norm1.weight", ORIGINAL) == "encoder.mid.block_1.norm1.weight"
    )
