"""Each net of Stable Diffusion computes what the reference computes with the weights that we write for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.checkpoints import diffusers_config as words
from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.diffusers_folder import split
from ldm.checkpoints.keymaps import DIFFUSERS
from ldm.checkpoints.names import theirs
from ldm.diffusion.conditioning import Conditioning
from ldm.models.tokenizer import tokenize

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

FULL = ["sd15", "sd15_inpaint", "sd2"]


def relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max())


def reference(component: str, config: dict[str, Any], module: nn.Module) -> nn.Module:
    """The reference's net with our weights, not copied."""
    node = config[component]
    with torch.device("meta"):
        if component == "backbone":
            net = diffusers.UNet2DConditionModel.from_config(words.backbone_json(node, 64, 8))
        elif component == "autoencoder":
            net = diffusers.AutoencoderKL.from_config(words.autoencoder_json(node, 64))
        else:
            options = words.text_encoder_json(node)
            net = transformers.CLIPTextModel(transformers.CLIPTextConfig(**options))
    state = module.state_dict()
    tensors = split(state, theirs(component, node, list(state), DIFFUSERS))
    prefix = "text_model." if any(key.startswith("text_model.") for key in net.state_dict()) else ""
    net.load_state_dict({prefix + k: v for k, v in tensors.items()}, strict=True, assign=True)
    for owner in net.modules():  # what is computed at construction and in no state dict
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(owner, name, torch.arange(buffer.shape[-1])[None])
    return net.eval()


def check_backbone(config: dict[str, Any], net: nn.Module, seed: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    node = config["backbone"]
    x_t = torch.randn(2, node["in_channels"], *size, generator=generator)
    t = 1000.0 * torch.rand(2, generator=generator)
    context = torch.randn(2, 7, node["context_dim"], generator=generator)
    expected = reference("backbone", config, net)(x_t, t, context).sample
    assert relative(net(x_t, t, Conditioning(tokens=context)), expected) <= 1e-5


def check_autoencoder(config: dict[str, Any], net: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, 64, 48, generator=generator) * 2 - 1
    other = reference("autoencoder", config, net)
    posterior, expected = net.encode(image), other.encode(image).latent_dist
    assert relative(posterior.mean, expected.mean) <= 1e-5
    assert relative(posterior.logvar, expected.logvar) <= 1e-5
    assert relative(net.decode(expected.mean), other.decode(expected.mean).sample) <= 1e-5


def check_text_encoder(config: dict[str, Any], net: nn.Module) -> None:
    """All layers, and with clip_skip the hidden states before the last layers, normalised."""
    captions, node = ["a photo of a cat wearing a hat", "", "red heart"], config["text_encoder"]
    other = reference("text_encoder", config, net)
    out = other(tokenize(captions, node["max_length"], node["pad_token"]), output_hidden_states=True)
    assert relative(net.encode(captions).tokens, out.last_hidden_state) <= 1e-5
    norm = getattr(other, "text_model", other).final_layer_norm
    for skip in range(1, min(node["layers"], 3)):
        assert (
            relative(net.encode(captions, clip_skip=skip).tokens, norm(out.hidden_states[-1 - skip])) <= 1e-5
        )


@pytest.mark.parametrize("family", ["sd1", "inpaint", "sd2"])
@pytest.mark.parametrize("seeds", [range(100, 108), pytest.param(range(108, 130), marks=pytest.mark.slow)])
def test_tiny_nets_equal_the_reference(
    family: str, seeds: range, stable_diffusion: Callable[..., LoadedModel]
) -> None:
    """Random configurations of each family; latents of odd sizes, too."""
    with torch.no_grad():
        for seed in seeds:
            model = stable_diffusion(family, seed)
            check_backbone(model.config, model.components["backbone"], seed, (5 + seed % 4, 9 + seed % 3))
            check_autoencoder(model.config, model.components["autoencoder"], seed)
            check_text_encoder(model.config, model.components["text_encoder"])


@pytest.mark.slow
@pytest.mark.parametrize("component", ["backbone", "autoencoder", "text_encoder"])
@pytest.mark.parametrize("name", FULL)
def test_full_size_nets_equal_the_reference(
    name: str, component: str, full_size: Callable[..., LoadedModel]
) -> None:
    """The nets of conf/, with random weights; latents of 8 x 8, an image of 64 x 48."""
    model = full_size(name, [component])
    net = model.components[component]
    with torch.no_grad():
        if component == "backbone":
            check_backbone(model.config, net, 0, (8, 8))
        elif component == "autoencoder":
            check_autoencoder(model.config, net, 0)
        else:
            check_text_encoder(model.config, net)
