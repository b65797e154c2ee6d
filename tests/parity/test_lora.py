"""Adapters against diffusers and PEFT: ours load there, theirs and kohya's load here, to the same net."""

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from ldm import Text2ImagePipeline
from ldm.checkpoints.converter import convert_checkpoint, write_checkpoint
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.lora import FILE, save_lora
from ldm.diffusion import random
from ldm.diffusion.conditioning import Conditioning
from ldm.models.lora import AdaptedNet, LoRA

pytest.importorskip("peft")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
TARGETS = ["to_q", "to_k", "to_v", "to_out", "ff.0.proj", "ff.1"]
X, T = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 700.0])


def tokens(width):
    return torch.randn(2, 7, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def base(stable_diffusion, tmp_path):
    """A model and its folder of diffusers."""
    model = stable_diffusion("sd1", 4, f8=True)
    assert "cross" in model.config["backbone"]["attention"]
    write_checkpoint(model, tmp_path / "base", "diffusers")
    return model, tmp_path / "base"


def trained(model, alpha=6.0):
    torch.manual_seed(2)
    lora = LoRA(model.components["backbone"], rank=3, alpha=alpha, targets=TARGETS)
    for name, value in lora.named_parameters():
        torch.nn.init.normal_(value, std=0.2) if name.endswith("B") else None
    return lora


@torch.no_grad()
def ours(net, width):
    return net(X, T, Conditioning(tokens=tokens(width)))


@torch.no_grad()
def theirs(unet: UNet2DConditionModel, width):
    return unet(X, T, encoder_hidden_states=tokens(width)).sample


def close(a, b):
    return float((a - b).abs().max() / b.abs().max()) < 1e-5


def test_what_is_trained_here_is_the_same_net_in_diffusers(base, tmp_path):
    """Adapters in place, merged from our file, and loaded by diffusers, of alpha twice the rank."""
    model, folder = base
    width = model.config["backbone"]["context_dim"]
    lora = trained(model)
    save_lora(tmp_path / FILE, lora.updates(), model.config["backbone"])
    names = set(load_file(tmp_path / FILE))
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight" in names
    plain = ours(model.components["backbone"], width)
    adapted = ours(AdaptedNet(model.components["backbone"], lora).using(lora), width)
    assert not close(adapted, plain)
    merged = load_model(folder, lora=tmp_path / FILE)
    assert close(ours(merged.components["backbone"], width), adapted)

    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    assert close(theirs(pipeline.unet, width), plain)
    pipeline.load_lora_weights(tmp_path, weight_name=FILE)
    assert close(theirs(pipeline.unet, width), adapted)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_file_of_peft_with_an_alpha_and_a_text_encoder_is_the_same_model_here(base, rslora, tmp_path):
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    model, folder = base
    width = model.config["backbone"]["context_dim"]
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    torch.manual_seed(3)
    settings = {"r": 2, "lora_alpha": 5, "use_rslora": rslora, "init_lora_weights": False}
    pipeline.unet.add_adapter(LoraConfig(target_modules=["to_q", "proj_in", "conv1", "ff.net.2"], **settings))
    pipeline.text_encoder.add_adapter(LoraConfig(target_modules=["q_proj", "v_proj", "fc1"], **settings))
    states = {
        "unet": convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.unet)),
        "text_encoder": convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.text_encoder)),
    }
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=states["unet"],
        text_encoder_lora_layers=states["text_encoder"],
        unet_lora_adapter_metadata=pipeline.unet.peft_config["default"].to_dict(),
        text_encoder_lora_adapter_metadata=pipeline.text_encoder.peft_config["default"].to_dict(),
    )
    merged = load_model(folder, lora=tmp_path)
    assert close(ours(merged.components["backbone"], width), theirs(pipeline.unet, width))
    text = merged.components["text_encoder"]
    with torch.no_grad():
        hidden = pipeline.text_encoder(text.tokenize(["a cat", ""])).last_hidden_state
        assert close(text.encode(["a cat", ""]).tokens, hidden)


def kohya(lora, alpha):
    """The file that kohya's scripts write, from diffusers' names of our own adapters."""
    state = {}
    for name, value in lora.items():
        layer, half = name.removesuffix(".weight").rsplit(".", 1)
        flat = "lora_unet_" + layer.removeprefix("unet.").replace(".", "_")
        state[f"{flat}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = value
        state[f"{flat}.alpha"] = torch.tensor(alpha)
    return state


def test_a_file_of_kohya_is_the_same_net_here_and_in_diffusers(base, tmp_path):
    model, folder = base
    width = model.config["backbone"]["context_dim"]
    save_lora(tmp_path / "ours.safetensors", trained(model).updates(), model.config["backbone"])
    more = {}
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer = f"lora_te_text_model_encoder_layers_0_self_attn_{part}"
        more[f"{layer}.lora_down.weight"] = torch.randn(2, width)
        more[f"{layer}.lora_up.weight"] = torch.randn(width, 2)
        more[f"{layer}.alpha"] = torch.tensor(1.5)
    state = kohya(load_file(tmp_path / "ours.safetensors"), 1.5)
    save_file(state | more, tmp_path / "kohya.safetensors")
    merged = load_model(folder, lora=tmp_path / "kohya.safetensors")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name="kohya.safetensors")
    assert close(ours(merged.components["backbone"], width), theirs(pipeline.unet, width))
    tower = merged.components["text_encoder"]
    with torch.no_grad():
        hidden = pipeline.text_encoder(tower.tokenize(["a cat", ""])).last_hidden_state
        assert close(tower.encode(["a cat", ""]).tokens, hidden)
        assert not close(model.components["text_encoder"].encode(["a cat", ""]).tokens, hidden)


def test_a_converted_checkpoint_holds_the_merged_weights(base, tmp_path):
    model, folder = base
    width = model.config["backbone"]["context_dim"]
    lora = trained(model)
    save_lora(tmp_path / FILE, lora.updates(), model.config["backbone"])
    convert_checkpoint(folder, tmp_path / "out", format="diffusers", lora=tmp_path / FILE, lora_scale=0.5)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name=FILE)
    pipeline.fuse_lora(lora_scale=0.5)
    other = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None)
    assert close(theirs(other.unet, width), theirs(pipeline.unet, width))


def test_images_with_adapters_are_those_of_diffusers(base, tmp_path):
    model, folder = base
    save_lora(tmp_path / FILE, trained(model).updates(), model.config["backbone"])
    ours = Text2ImagePipeline.from_pretrained(folder, lora=tmp_path / FILE, lora_scale=0.7)
    plain = Text2ImagePipeline.from_pretrained(folder)
    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.load_lora_weights(tmp_path, weight_name=FILE)
    asked = {"height": 64, "width": 64, "num_inference_steps": 8, "guidance_scale": 7.5}
    x_t = random.normal(3, "x_T", torch.zeros(1, dtype=torch.int64), 0, (4, 8, 8))
    scale = {"cross_attention_kwargs": {"scale": 0.7}}
    expected = torch.from_numpy(theirs("a cat", latents=x_t, output_type="np", **asked, **scale).images)
    images = [p("a cat", seed=3, output="tensor", **asked) / 2 + 0.5 for p in (ours, plain)]
    difference, without = ((image.movedim(1, -1) - expected).abs().max() for image in images)
    assert difference < 1 / 255
    assert without > 10 / 255
    loaded = plain.load_lora(tmp_path / FILE, 0.7)("a cat", seed=3, output="tensor", **asked) / 2 + 0.5
    assert torch.equal(loaded, images[0])
