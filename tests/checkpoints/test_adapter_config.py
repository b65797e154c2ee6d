"""Settings of PEFT's adapters; parity with PEFT is in tests/parity/test_adapters.py."""

import json
import math

import pytest

from ldm.checkpoints.adapter_config import CONFIG, PEFT_METADATA, AdapterConfig, config_of, configs

LAYER = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("settings", "rank", "scale"),
    [
        ({}, 4, 1.0),
        ({"r": 4, "lora_alpha": 8}, 4, 2.0),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4, 4.0),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"to_q": 2}}, 4, 0.5),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {r"attn1\.to_.": 2, "to_q": 3}}, 4, 0.5),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"o_q": 2}}, 4, 2.0),
        ({"r": 4, "lora_alpha": 8, "rank_pattern": {"to_q": 16}}, 16, 0.5),
        ({"peft_type": "LOKR", "r": 4, "alpha": 8}, None, 2.0),
        ({"peft_type": "LOKR", "r": 4, "alpha": 8, "rank_pattern": {"to_q": 2}}, None, 4.0),
        ({"peft_type": "LORA", "r": 4, "lora_alpha": 8}, None, 1.0),
    ],
)
def test_the_scale_of_a_layer(settings, rank, scale):
    assert math.isclose(AdapterConfig(settings).scale(LAYER, rank), scale)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"peft_type": "OFT"}, "peft_type must be one of LORA, LOHA, LOKR, got OFT"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"use_qalora": True}, "use_qalora must be unset"),
    ],
)
def test_settings_with_another_formula_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        AdapterConfig(settings)


@pytest.mark.parametrize("alpha", ["x", math.nan, True])
def test_an_alpha_must_be_a_number(alpha):
    with pytest.raises(ValueError, match="alpha must be a number"):
        AdapterConfig({"lora_alpha": alpha}).scale(LAYER, 2)


def test_settings_come_from_beside_the_file_or_from_its_metadata(tmp_path):
    file = tmp_path / "adapter_model.safetensors"
    said = {"unet.r": 2, "unet.lora_alpha": 4, "text_encoder.lora_alpha": 6}
    found = configs(file, {PEFT_METADATA: json.dumps(said)})
    assert (found["backbone"].scale("a", 2), found["text_encoder"].scale("a", 2)) == (2.0, 3.0)
    alone = configs(file, {PEFT_METADATA: json.dumps({"r": 2, "lora_alpha": 8})})  # of one net
    assert alone["backbone"].scale("a", 2) == 4.0
    assert configs(file, {})["backbone"].scale("a", 2) == 1.0
    (tmp_path / CONFIG).write_text(json.dumps({"r": 2, "lora_alpha": 10}))
    assert configs(file, {})["backbone"].scale("a", 2) == 5.0
    assert config_of(tmp_path / "other.safetensors") is None


@pytest.mark.parametrize("text", ["[1]", "{", '"a"'])
def test_metadata_that_are_no_settings_are_refused(text, tmp_path):
    with pytest.raises(ValueError, match="no JSON object"):
        configs(tmp_path / "a.safetensors", {PEFT_METADATA: text})
