"""Every option of the nets' groups fulfils its protocol; a net that does not is refused in one line."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ldm.cli.compose import compose
from ldm.diffusion.conditioning import Conditioning
from ldm.models.lora import AdaptedNet, LoRA
from ldm.models.protocols import (
    PROTOCOLS,
    Autoencoder,
    Backbone,
    TextEncoder,
    check_protocol,
    contract,
    members,
    missing_members,
)
from ldm.models.text_encoder import BaseTextEncoder
from ldm.utils.construct import construct
from ldm.utils.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = [(group, path.stem) for group in PROTOCOLS for path in sorted((CONF / group).glob("*.yaml"))]


def built(group, option):
    alone = ["backbone.context_dim=null", "backbone.pooled_dim=null"] if option == "none" else []
    node = compose("train", [f"{group}={option}", *alone])[group]
    with torch.device("meta"):
        return construct({k: v for k, v in node.items() if k != "_partial_"}, group)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_fulfils_its_protocol(group, option):
    net = built(group, option)
    assert missing_members(net, PROTOCOLS[group]) == []
    assert isinstance(net, PROTOCOLS[group])
    assert isinstance(net.supports, frozenset)


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "backbone").glob("*.yaml")))
def test_a_backbone_maps_channels_and_sizes_as_it_claims(option):
    net = built("backbone", option)
    size = net.position_size or net.downscale
    tokens = None if net.context_dim is None else torch.zeros(2, 3, net.context_dim, device="meta")
    pooled = None if net.pooled_dim is None else torch.zeros(2, net.pooled_dim, device="meta")
    rows = torch.tensor([True, False], device="meta")
    cond = Conditioning(
        tokens=tokens, pooled=pooled, identity_attention=rows if "pag" in net.supports else None
    )
    x = torch.zeros(2, net.in_channels, size, size, device="meta")
    assert net(x, torch.zeros(2, device="meta"), cond).shape == (2, net.out_channels, size, size)


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "autoencoder").glob("*.yaml")))
def test_an_autoencoder_maps_sizes_as_it_claims(option):
    net, side = built("autoencoder", option), 2
    mean = net.encode(torch.zeros(1, 3, side * net.downscale, side * net.downscale, device="meta")).mean
    assert mean.shape == (1, net.latent_channels, side, side)
    assert net.from_latent(net.normalise(mean)).shape[2:] == (side * net.downscale, side * net.downscale)


def test_denormalise_inverts_normalise():
    net = built("autoencoder", "tiny").to_empty(device="cpu")
    net.set_latent_statistics([2.0] * net.latent_channels, 0.5)
    z = torch.randn(1, net.latent_channels, 2, 2)
    torch.testing.assert_close(net.denormalise(net.normalise(z)), z)


def test_a_net_with_adapters_is_a_backbone():
    net = built("backbone", "tiny")
    lora = LoRA(net, rank=1, alpha=1.0, targets=["to_q"])
    adapted = AdaptedNet(net, lora).using(lora)
    assert missing_members(adapted, Backbone) == []
    assert adapted.in_channels == net.in_channels


class Half(nn.Module):
    """A backbone that is not finished."""

    in_channels = out_channels = 4
    context_dim = pooled_dim = position_size = None
    supports: frozenset[str] = frozenset()


def test_missing_members_are_named_with_the_contract_in_one_line():
    assert missing_members(Half(), Backbone) == ["forward", "downscale"]
    with pytest.raises(UserError, match=r"^Half lacks forward, downscale; forward: .*context_dim.*Backbone"):
        check_protocol(Half(), Backbone)


def test_a_text_encoder_has_only_to_encode():
    assert missing_members(BaseTextEncoder(), TextEncoder) == ["encode"]


@pytest.mark.parametrize("protocol", PROTOCOLS.values())
def test_the_contract_describes_every_member(protocol):
    assert all(members(protocol).values())
    assert all(f"  {name}: " in contract(protocol) for name in members(protocol))


def test_no_autoencoder_is_a_backbone():
    assert "encode" in missing_members(built("backbone", "tiny"), Autoencoder)
