"""The tables of names: each name stands for one layer, and the rest of a file is known by name."""

import re

import pytest

from ldm.checkpoints.keymaps import POINTWISE, PREFIXES, TEXT, UNET, UNUSED, VAE, Row, within
from ldm.checkpoints.names import unused


def test_statistics_of_training_belong_to_no_component():
    assert unused("model_ema.decay")
    assert unused("betas")
    for name in ("transformer.text_model.embeddings.position_ids", "transformer.text_projection.weight"):
        assert unused(f"cond_stage_model.{name}")
    for name in ("logit_scale", "model.logit_scale", "transformer.logit_scale", "model.text_projection"):
        assert unused(f"cond_stage_model.{name}")
    for name in ("embedding_manager.string_to_param_dict.*", "global_step", "first_stage_model.loss.logvar"):
        assert unused(name)
    assert not unused("control_model.time_embed.0.weight")
    assert not unused("model.diffusion_model.out.2.bias")
    assert not unused("first_stage_model.surprise")


def test_a_block_is_a_table_below_its_place():
    assert within(("a.{i}", "b.{i}", "c.{n}"), (("x", "y", "z"),)) == (("a.{i}.x", "b.{i}.y", "c.{n}.z"),)


@pytest.mark.parametrize("table", [UNET, VAE, TEXT], ids=["unet", "vae", "text"])
@pytest.mark.parametrize("column", range(3))
def test_no_name_of_a_format_stands_for_two_layers(table: tuple[Row, ...], column: int):
    names = [row[column] for row in table]
    assert len(set(names)) == len(names)


def test_pointwise_layers_are_the_attention_of_the_original_vae():
    found = {f".attn_1.{name}.weight" for name in ("q", "k", "v", "proj_out")}
    assert set(POINTWISE) == found
    assert all(any(f"{row[2]}.weight".endswith(name) for row in VAE) for name in POINTWISE)


def test_nothing_of_a_component_is_left_out():
    for name in ("backbone", "autoencoder"):
        table = UNET if name == "backbone" else VAE
        numbered = [re.sub(r"\{c\}", "encoder", re.sub(r"\{[^c]\w*\}", "0", row[2])) for row in table]
        assert not [n for n in numbered if unused(f"{PREFIXES[name]}{n}.weight")]
    assert all(re.compile(pattern) for pattern in UNUSED)
