"""Files of adapters: what is refused, and that a refused one changes nothing; parity is in tests/parity."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.lora import FILE, as_paths, merge_lora, save_lora, unmerge
from ldm.models.lora import LoRA
from ldm.models.unet import UNet

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PLACE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def made(stable_diffusion):
    return stable_diffusion("sd1", 0)


@pytest.fixture
def model(made):
    """The same one for all tests, as it was before them."""
    before = {name: copy.deepcopy(net.state_dict()) for name, net in made.components.items()}
    yield made
    unmerge(made.components.values())
    for name, state in before.items():
        made.components[name].load_state_dict(state)


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
        (lambda s: s | {f"{PLACE}.lora_magnitude_vector": torch.zeros(2)}, r"magnitudes \(2,\)"),
        (lambda s: {k: 0 * v for k, v in s.items()}, "changes nothing"),
        (lambda s: {k: 1e30 * v for k, v in s.items()}, "not finite in float32"),
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


def test_several_files_have_a_scale_each_and_are_taken_out_bit_for_bit(model, file, tmp_path):
    """At once or in turn, in any order; the one that is not for the model changes nothing."""
    other = tmp_path / "other.safetensors"
    state = {k: v.flip(0).contiguous() for k, v in load_file(file).items()}
    save_file({k: v for k, v in state.items() if "mid_block" in k}, other)
    before = weights(model)
    name = "backbone.mid.attentions.0.blocks.0.attn1.to_q.weight"
    deltas = [v[f"{PLACE}.lora_B.weight"] @ v[f"{PLACE}.lora_A.weight"] for v in (load_file(file), state)]
    merge_lora(model, [file, other], [0.5, -2.0], keep=True)
    at_once = weights(model)
    wanted = before[name] + 0.5 * deltas[0] - 2.0 * deltas[1]
    torch.testing.assert_close(at_once[name], wanted, rtol=0, atol=1e-5)
    unmerge(model.components.values())
    assert all(torch.equal(value, before[key]) for key, value in weights(model).items())
    merge_lora(model, file, 0.5, keep=True)
    merge_lora(model, other, -2.0, keep=True)
    assert all(torch.equal(value, at_once[key]) for key, value in weights(model).items())
    save_file({"unet.absent.lora_A.weight": torch.ones(1, 1)}, other)
    with pytest.raises(ValueError, match="belong to no layer"):
        merge_lora(model, [file, other])
    assert all(torch.equal(value, at_once[key]) for key, value in weights(model).items())
    unmerge(model.components.values())
    assert all(torch.equal(value, before[key]) for key, value in weights(model).items())


def test_dora_is_of_the_weight_before_other_adapters(model, file, tmp_path):
    """Its magnitude then is that of the weight it was trained on."""
    dora, state = tmp_path / "dora.safetensors", load_file(file)
    name = "backbone.mid.attentions.0.blocks.0.attn1.to_q.weight"
    before = weights(model)[name]
    magnitude = {f"{PLACE}.lora_magnitude_vector": 2 * before.norm(dim=1)}
    save_file({k: v for k, v in state.items() if PLACE in k} | magnitude, dora)
    merge_lora(model, dora, keep=True)
    alone = weights(model)[name] - before
    unmerge(model.components.values())
    merge_lora(model, file, keep=True)
    first = weights(model)[name]
    merge_lora(model, dora, keep=True)
    torch.testing.assert_close(weights(model)[name] - first, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("scale", "says"),
    [([1.0, 2.0], "one number or 1"), (float("nan"), "finite")],
)
def test_scales_are_as_many_finite_numbers_as_files(scale, says, model, file):
    with pytest.raises(ValueError, match=f"lora_scale must be .*{says}"):
        merge_lora(model, [file], scale)


def test_a_scale_of_zero_is_the_model_itself_and_a_file_given_twice_is_refused(model, file):
    before = weights(model)
    merge_lora(model, file, 0.0)
    assert all(torch.equal(value, before[key]) for key, value in weights(model).items())
    with pytest.raises(ValueError, match="twice"):
        merge_lora(model, [file, file])


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


@pytest.mark.parametrize("value", [5, None, b"x", {"a": 1}, ["a", 5]])
def test_paths_of_another_kind_are_named(value: object):
    with pytest.raises(TypeError, match="lora must be a file or folder, or a list of them, got "):
        as_paths("lora", value)
    assert as_paths("lora", "a") == as_paths("lora", [Path("a")]) == [Path("a")]
