"""Adapters as PEFT saves them, merged here and by PEFT itself: the same weights."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.converter import write_checkpoint
from ldm.checkpoints.keymaps import DIFFUSERS
from ldm.checkpoints.lora import merge_lora
from ldm.checkpoints.names import theirs

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
Q, V = "to_q", "to_v"
LORA = {"target_modules": [Q, "conv1", "proj_in", "ff.net.2"], "r": 2, "lora_alpha": 6}
CASES = {
    "lora": peft.LoraConfig(**LORA),
    "rslora": peft.LoraConfig(**LORA, use_rslora=True),
    "patterns": peft.LoraConfig(
        **LORA, rank_pattern={Q: 4}, alpha_pattern={r"attn2\.to_q": 5, Q: 3, "conv1": 1}
    ),
    "dora": peft.LoraConfig(**LORA, use_dora=True),
    "biases": peft.LoraConfig(**LORA | {"target_modules": ["to_out.0"]}, lora_bias=True),
    "whole layers": peft.LoraConfig(**LORA, modules_to_save=["conv_in"]),
    "loha": peft.LoHaConfig(target_modules=[Q, "conv1"], r=2, alpha=6, use_effective_conv2d=True),
    "loha, kernels": peft.LoHaConfig(target_modules=[Q, "conv1"], r=2, alpha=6),
    "lokr": peft.LoKrConfig(target_modules=[Q, "conv1"], r=2, alpha=6),
    "lokr, cores": peft.LoKrConfig(
        target_modules=[Q, "conv1"], r=2, alpha=6, decompose_both=True, use_effective_conv2d=True
    ),
    "lokr, whole": peft.LoKrConfig(target_modules=[Q], r=64, alpha=32),
}
TEXT = {
    "text lora": peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj", "fc1"]),
    "text dora": peft.LoraConfig(r=2, lora_alpha=6, target_modules=["k_proj"], use_dora=True),
    "token table": peft.LoraConfig(r=2, lora_alpha=6, target_modules=["token_embedding", "q_proj"]),
}
KINDS = {"backbone": (UNet2DConditionModel, "unet"), "text_encoder": (CLIPTextModel, "text_encoder")}


@pytest.fixture(scope="module")
def base(stable_diffusion, tmp_path_factory):
    """A model and the nets of diffusers that have its weights."""
    model, folder = stable_diffusion("sd1", 4, f8=True), tmp_path_factory.mktemp("base") / "sd"
    write_checkpoint(model, folder, "diffusers")
    return model, {name: kind.from_pretrained(folder / part) for name, (kind, part) in KINDS.items()}


def adapted(net, config, scale=0.1):
    """The net in PEFT, with random numbers in all that is trained."""
    generator = torch.Generator().manual_seed(5)
    config.base_model_name_or_path = None
    made = peft.get_peft_model(copy.deepcopy(net), config)
    for value in made.parameters():
        if value.requires_grad:
            value.data += scale * torch.randn(value.shape, generator=generator)
    return made


def merged_here(model, component, path):
    """Weights of a copy of the net, under diffusers' names."""
    net = copy.deepcopy(model.components[component])
    node = model.config[component]
    merge_lora(LoadedModel(config=model.config, components={component: net}), path)
    found = {}
    for key, value in net.state_dict().items():
        names = theirs(component, node, [key], DIFFUSERS)[key]
        found |= dict(zip(names, value.chunk(len(names)), strict=True))
    return found


def plain(name):
    return name.removeprefix("text_model.")


def check(base, component, config, tmp_path, safe=True):
    model, nets = base
    made = adapted(nets[component], config)
    made.save_pretrained(tmp_path, safe_serialization=safe)
    found = merged_here(model, component, tmp_path)
    before = {plain(name): value for name, value in nets[component].state_dict().items()}
    wanted = {plain(name): value for name, value in made.merge_and_unload().state_dict().items()}
    changed = [name for name in found if not torch.equal(wanted[name].flatten(), before[name].flatten())]
    assert changed
    for name, value in found.items():
        expected = wanted[name].view(value.shape)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", CASES)
def test_the_backbone_with_adapters_of_peft_has_pefts_weights(name, base, tmp_path):
    check(base, "backbone", CASES[name], tmp_path)


@pytest.mark.parametrize("name", TEXT)
def test_the_text_encoder_with_adapters_of_peft_has_pefts_weights(name, base, tmp_path):
    check(base, "text_encoder", TEXT[name], tmp_path, safe=False)


def test_pickled_state_of_a_net_in_peft_is_read(base, tmp_path):
    """A plain `torch.save(net.state_dict())`: all weights of the base beside the adapters, alpha = rank."""
    model, nets = base
    made = adapted(nets["backbone"], peft.LoraConfig(r=2, lora_alpha=2, target_modules=[Q]))
    torch.save(made.state_dict(), tmp_path / "state.bin")
    found = merged_here(model, "backbone", tmp_path / "state.bin")
    for name, value in made.merge_and_unload().state_dict().items():
        torch.testing.assert_close(found[name].flatten(), value.flatten(), rtol=1e-4, atol=1e-5)


def test_folders_of_both_nets_are_read(base, tmp_path):
    """As PEFT's scripts write them: unet/ and text_encoder/."""
    model, nets = base
    configs = {"backbone": CASES["lora"], "text_encoder": TEXT["text lora"]}
    for component, (_, part) in KINDS.items():
        adapted(nets[component], configs[component]).save_pretrained(tmp_path / part)
    net = copy.deepcopy(model)
    merge_lora(net, tmp_path)
    for component, (_, part) in KINDS.items():
        key = {"backbone": "mid.resnets.0.conv1.weight"}.get(
            component, "tower.transformer.resblocks.0.mlp.c_fc.weight"
        )
        alone = copy.deepcopy(model)
        merge_lora(alone, tmp_path / part)
        value = net.components[component].state_dict()[key]
        assert torch.equal(value, alone.components[component].state_dict()[key])
        assert not torch.equal(value, model.components[component].state_dict()[key])
