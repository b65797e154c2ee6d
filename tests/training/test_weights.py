from functools import partial

import pytest
import torch
from torch import nn

from ldm.diffusion.conditioning import Conditioning
from ldm.models.lora import LoRA
from ldm.models.text_encoder import ClassEncoder, NullTextEncoder
from ldm.training.power_ema import power_functions
from ldm.training.weights import WeightsFactory
from ldm.utils.ema import Horizon

TEXT = partial(ClassEncoder, captions=["a", "b"], width=4)


class Net(nn.Module):
    """A backbone of two layers."""

    in_channels = out_channels = 3
    context_dim = pooled_dim = position_size = None
    downscale, supports = 1, frozenset()

    def __init__(self):
        super().__init__()
        self.to_q, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x_t, t, cond):
        return self.other(self.to_q(x_t))


def factory(text=TEXT, adapters=None, powers=(), seed=0, **more):
    return WeightsFactory(
        text, Net, adapters, Horizon(images=10), power_functions(powers), False, False, seed, **more
    )


LORA = partial(LoRA, rank=1, alpha=1.0, targets=["to_q"])


def test_weights_are_functions_of_the_seed_whatever_was_drawn_before():
    torch.manual_seed(5)
    one = factory()(None)
    before = torch.random.get_rng_state()
    two, other = factory()(None), factory(seed=1)(None)
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(one.nets.parameters(), two.nets.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.nets["backbone"].other.weight, other.nets["backbone"].other.weight)


def test_averages_start_at_the_nets_and_are_named_by_their_width():
    weights = factory(powers=(0.05, 0.1))(None)
    assert list(weights.powers) == [0.05, 0.1]
    assert len(weights.averages()) == len(weights.twins) == 3
    for twin in weights.twins:
        assert twin.state_dict().keys() == weights.nets.state_dict().keys()
        assert not any(p.requires_grad for p in twin.parameters())


def test_initial_weights_are_those_of_given_nets_and_are_let_go():
    given, initial = Net(), {}
    initial["backbone"] = given
    weights = factory(initial=initial)(None)
    assert torch.equal(weights.nets["backbone"].other.weight, given.other.weight)
    assert torch.equal(weights.ema["backbone"].other.weight, given.other.weight)
    assert not initial


def test_a_trainable_text_encoder_is_trained_and_averaged():
    weights = factory()(None)
    assert weights.frozen == []
    assert weights.text_encoder(weights.nets) is weights.nets["text_encoder"]
    assert weights.text_encoder(weights.ema) is weights.ema["text_encoder"]


@pytest.mark.parametrize(("text", "adapters"), [(NullTextEncoder, None), (TEXT, LORA)])
def test_a_text_encoder_that_is_not_trained_is_one_for_nets_and_averages(text, adapters):
    weights = factory(text=text, adapters=adapters)(None)
    assert set(weights.nets) == {"backbone"}
    assert weights.text_encoder(weights.nets) is weights.text_encoder(weights.ema)
    assert not any(p.requires_grad for p in weights.text_encoder(weights.nets).parameters())


def test_adapters_are_trained_beside_a_frozen_backbone():
    weights = factory(adapters=LORA)(None)
    assert isinstance(weights.nets["backbone"], LoRA)
    assert not any(p.requires_grad for p in weights.adapted.net.parameters())
    nn.init.ones_(weights.ema["backbone"].get_submodule("to_q").B)
    x, t = torch.ones(1, 3), torch.zeros(1)
    plain, averaged = (weights.backbone(nets)(x, t, Conditioning()) for nets in (weights.nets, weights.ema))
    assert not torch.equal(plain, averaged)


def test_components_are_those_of_the_average():
    made = factory()
    weights = made(None)
    nn.init.ones_(weights.ema["backbone"].other.weight)
    components = made.components(weights)
    assert set(components) == {"text_encoder", "backbone"}
    assert components["backbone"] is weights.ema["backbone"]
