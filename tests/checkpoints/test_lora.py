"""Files of adapters: what is refused, and that a refused one changes nothing; parity is in tests/parity."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.lora import FILE, PEFT_METADATA, merge_lora, save_lora
from ldm.models.lora import LoRA
from ldm.models.unet import UNet

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PLACE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def model(stable_diffusion):
    return stable_diffusion("sd1", 0)


@pytest.fixture
def file(model, tmp_path):
    """A file of adapters for the model."""
    lora = LoRA(model.components["backbone"], rank=2, alpha=1.0, targets=["to_q"])
    for p in lora.parameters():
        torch.nn.init.normal_(p)
    save_lora(tmp_path / FILE, lora.updates(), model.config["backbone"])
    return tmp_path / FILE


def weights(model):
    return {
        f"{name}.{key}": value.clone()
        for name, net in model.components.items()
        for key, value in net.state_dict().items()
    }


def test_merging_and_merging_back_is_the_model_itself(model, file):
    before = weights(model)
    merge_lora(model, file)
    between = weights(model)
    changed = {key for key in before if not torch.equal(before[key], between[key])}
    assert changed
    assert all(key.endswith("to_q.weight") for key in changed)
    merge_lora(model, file.parent, scale=-1.0)
    for key, value in weights(model).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s | {"unet.other.lora_A.weight": torch.zeros(2, 2)}, r"1 tensors .* unet\.other\.lora_A"),
        (lambda s: s | {f"{PLACE}.lora_magnitude_vector": torch.zeros(2)}, "belong to no layer"),
        (lambda s: {k: v for k, v in s.items() if "lora_B" not in k}, "only one half"),
        (lambda s: {k: v[:, :1] if "lora_A" in k else v for k, v in s.items()}, r"for a weight \("),
    ],
)
def test_a_file_that_is_not_for_the_model_is_refused_and_changes_nothing(change, says, model, file):
    before = weights(model)
    save_file({k: v.contiguous() for k, v in change(load_file(file)).items()}, file)
    with pytest.raises(ValueError, match=says):
        merge_lora(model, file)
    assert all(torch.equal(value, before[key]) for key, value in weights(model).items())


def test_settings_of_peft_that_are_not_understood_are_refused(model, file):
    said = {"unet.r": 2, "unet.lora_alpha": 2, "unet.alpha_pattern": {"to_q": 3}}
    save_file(load_file(file), file, {PEFT_METADATA: json.dumps(said)})
    with pytest.raises(ValueError, match="alpha_pattern"):
        merge_lora(model, file)


@pytest.mark.parametrize(("attention", "prefix"), [("cross", "unet."), ("self", "backbone.")])
def test_adapters_of_nets_of_our_own_are_read_back(attention, prefix, tmp_path):
    """With pooled text and a position table; layers that Stable Diffusion's net has are named as there."""
    node = {"channels": [16, 32], "layers_per_block": 1, "attention": ["none", attention]}
    settings = {"in_channels": 4, "out_channels": 4, "mid_attention": attention, "norm_groups": 4}
    extra = {"num_heads": 2, "context_dim": 16, "pooled_dim": 8, "position_size": 8}
    net = UNet(**node, **settings, **extra)
    lora = LoRA(net, rank=1, alpha=1.0, targets=["to_v"])
    for p in lora.parameters():
        torch.nn.init.ones_(p)
    save_lora(tmp_path / FILE, lora.updates(), node)
    assert all(name.startswith(prefix) for name in load_file(tmp_path / FILE))
    before = {name: net.get_submodule(name).weight.clone() for name in lora.layers}
    merge_lora(LoadedModel(config={"backbone": node}, components={"backbone": net}), tmp_path)
    for name, weight in before.items():
        assert torch.allclose(net.get_submodule(name).weight, weight + 1.0)


def test_weights_that_are_not_finite_are_not_written(model, tmp_path):
    lora = LoRA(model.components["backbone"], rank=1, alpha=1.0, targets=["to_q"])
    lora.updates()[lora.layers[0]].up.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        save_lora(tmp_path / FILE, lora.updates(), model.config["backbone"])
    assert not list(tmp_path.iterdir())
