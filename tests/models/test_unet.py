from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.models.unet import Layout, UNet
from ldm.utils.construct import construct

CONF = Path(__file__).parents[2] / "conf" / "backbone"
CONFIGS = sorted(path.stem for path in CONF.glob("*.yaml"))
TINY: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 2,
    "channels": [8, 16],
    "attention": ["none", "cross"],
    "num_heads": 2,
    "context_dim": 6,
    "norm_groups": 4,
}


def from_yaml(name: str, latent_channels: int = 4, width: int = 24) -> UNet:
    """The net of conf/backbone/{name}.yaml on the meta device."""
    others = {"autoencoder": {"latent_channels": latent_channels}, "text_encoder": {"width": width}}
    config = OmegaConf.create({**others, "backbone": OmegaConf.load(CONF / f"{name}.yaml")})
    with torch.device("meta"):
        return construct(OmegaConf.to_container(config, resolve=True)["backbone"], "backbone")()


def size(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def inputs(net: UNet, batch: int = 2, device: str = "cpu") -> tuple[Tensor, Tensor, Conditioning]:
    """Random x_t, t and condition that fit a net."""
    edge = net.position_size or 16
    with torch.device(device):
        tokens = None if net.context_dim is None else torch.randn(batch, 5, net.context_dim)
        pooled = None if net.pooled_dim is None else torch.randn(batch, net.pooled_dim)
        x_t, t = torch.randn(batch, net.in_channels, edge, edge), 999.0 * torch.rand(batch)
    return x_t, t, Conditioning(tokens=tokens, pooled=pooled)


def randomised(net: UNet, seed: int = 0) -> UNet:
    """The net with random weights in its zero-initialised layers, too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return net.eval()


@pytest.mark.parametrize(
    ("name", "parameters"), [("sd15", 859_520_964), ("sd15_inpaint", 859_535_364), ("sd2", 865_910_724)]
)
def test_stable_diffusion_has_its_number_of_parameters(name: str, parameters: int):
    """Source: stable-diffusion-v1-5, -inpainting and -2-1, unet/diffusion_pytorch_model.safetensors."""
    assert size(from_yaml(name)) == parameters


def test_ddpm_cifar10_has_its_number_of_parameters():
    """Source: google/ddpm-cifar10-32 (the paper says 35.7 million)."""
    assert size(from_yaml("ddpm_cifar10")) == 35_746_307


@pytest.mark.parity
def test_ddpm_cifar10_is_as_large_as_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        theirs = diffusers.UNet2DModel(
            block_out_channels=(128, 256, 256, 256),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
        )
    assert size(from_yaml("ddpm_cifar10")) == size(theirs)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_maps_latents_to_latents(name: str):
    net = from_yaml(name)
    x_t, t, cond = inputs(net, device="meta")
    assert net(x_t, t, cond).shape == (2, net.out_channels, *x_t.shape[2:])


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_shows_all_arguments(name: str):
    written = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert written.keys() - {"_target_", "_partial_"} == set(UNet.__init__.__annotations__) - {"return"}


def test_output_starts_at_zero():
    net = UNet(**TINY)
    assert torch.equal(net(*inputs(net)), torch.zeros(2, 2, 16, 16))


def test_further_channels_of_the_condition_stand_behind_those_of_x_t():
    net = randomised(UNet(**TINY))
    x_t, t, cond = inputs(net)
    split = Conditioning(tokens=cond.tokens, concat=x_t[:, 1:])
    assert torch.equal(net(x_t[:, :1], t, split), net(x_t, t, cond))


def test_channels_that_are_missing_or_too_many_are_counted():
    net = UNet(**TINY)
    x_t, t, cond = inputs(net)
    with pytest.raises(ValueError, match="in_channels=3 does not fit 2 channels of x_t and 0 "):
        net(x_t[:, :2], t, cond)
    with pytest.raises(ValueError, match="in_channels=3 does not fit 3 channels of x_t and 1 "):
        net(x_t, t, Conditioning(tokens=cond.tokens, concat=x_t[:, :1]))


def test_rows_do_not_depend_on_each_other():
    net = randomised(UNet(**TINY, pooled_dim=3, position_size=4, layout_rank=5))
    x_t, t, cond = inputs(net, batch=3)
    out = net(x_t, t, cond)
    for i in range(3):
        alone = net(
            x_t[i : i + 1], t[i : i + 1], Conditioning(cond.tokens[i : i + 1], cond.pooled[i : i + 1])
        )
        assert torch.allclose(alone, out[i : i + 1], atol=1e-4)


def test_every_input_matters():
    net = randomised(UNet(**TINY, pooled_dim=3, position_size=4, layout_rank=5))
    x_t, t, cond = inputs(net)
    out = net(x_t, t, cond)
    for other in (
        net(x_t + 1, t, cond),
        net(x_t, t + 0.5, cond),
        net(x_t, t, Conditioning(cond.tokens + 1, cond.pooled)),
        net(x_t, t, Conditioning(cond.tokens, cond.pooled + 1)),
        net(x_t.flip(-1), t, cond).flip(-1),  # the position table and the kernels tell left from right
    ):
        assert (other - out).abs().max() > 1e-4


def test_the_layout_is_a_weighted_sum_of_its_maps():
    layout, pooled = Layout(pooled_dim=3, rank=5, channels=2, size=4), torch.randn(6, 3)
    expected = sum(layout.weights(pooled)[:, k, None, None, None] * layout.maps[k] for k in range(5))
    assert torch.allclose(layout(pooled), expected, atol=1e-6)


def test_the_layout_stands_beside_the_position_table():
    """Two nets, one with the layout's map as position table: they agree for that one condition."""
    net = randomised(UNet(**TINY, pooled_dim=3, position_size=4, layout_rank=5))
    x_t, t, cond = inputs(net, batch=1)
    other = UNet(**TINY, pooled_dim=3, position_size=4).eval()
    state = net.state_dict()
    state["position"] = state["position"] + net.layout(cond.pooled)[0].detach()
    other.load_state_dict({k: v for k, v in state.items() if not k.startswith("layout")})
    assert torch.allclose(net(x_t, t, cond), other(x_t, t, cond), atol=1e-5)


def test_every_parameter_has_a_gradient():
    more = {"pooled_dim": 3, "position_size": 4, "layout_rank": 5}
    net = randomised(UNet(**TINY, **more, linear_projection=True, transformer_depth=2))
    net(*inputs(net)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": ["none"]}, r"attention needs 2 entries.*got 1"),
        ({"attention": ["none", "crss"]}, r"got \['crss'\]"),
        ({"mid_attention": "all"}, r"got \['all'\]"),
        ({"num_heads": [2]}, r"num_heads must be one number or 2.*got \[2\]"),
        ({"num_heads": 3}, r"num_heads must divide the width 16, got 3"),
        (
            {"layout_rank": 2, "pooled_dim": 3},
            r"layout_rank needs .*, got 2 with 3 and None",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        UNet(**TINY | changes)


def test_missing_conditions_are_named():
    net = UNet(**TINY, pooled_dim=3)
    x_t, t, cond = inputs(net)
    with pytest.raises(ValueError, match=r"context_dim=6 needs context tokens, got none"):
        net(x_t, t, Conditioning(pooled=cond.pooled))
    with pytest.raises(ValueError, match=r"pooled_dim=3 needs a pooled condition, got none"):
        net(x_t, t, Conditioning(tokens=cond.tokens))


def test_a_net_that_reads_the_guidance_scale_depends_on_it_and_needs_it():
    torch.manual_seed(0)
    net = randomised(UNet(**TINY, guidance_dim=8).eval())
    x_t, t, cond = inputs(net)
    assert "guidance_scale" in net.supports
    assert "guidance_scale" not in UNet(**TINY).supports
    low, high = (net(x_t, t, replace(cond, guidance=torch.full((2,), w))) for w in (1.0, 8.0))
    assert not torch.allclose(low, high)
    with pytest.raises(ValueError, match="guidance_dim=8 needs the guidance scale, got none"):
        net(x_t, t, cond)
