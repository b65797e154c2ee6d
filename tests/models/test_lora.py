from functools import partial

import pytest
import torch

from ldm.diffusion.conditioning import Conditioning
from ldm.models.lora import AdaptedNet, LoRA
from ldm.models.unet import UNet
from ldm.utils.ema import twin_of

TARGETS = ["to_q", "to_k", "to_v", "to_out"]
ASKED = (torch.randn(2, 4, 8, 8), torch.tensor([3.0, 700.0]), Conditioning(tokens=torch.randn(2, 5, 16)))
make_unet = partial(
    UNet,
    in_channels=4,
    out_channels=4,
    channels=[16, 32],
    layers_per_block=1,
    attention=["self", "cross"],
    num_heads=2,
    context_dim=16,
    norm_groups=4,
)


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = make_unet()
    for p in made.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    return made


def adapters(net, **changes):
    return LoRA(net, **({"rank": 2, "alpha": 4.0, "targets": TARGETS} | changes))


def test_untrained_adapters_leave_the_output_as_it_is_bit_for_bit(net):
    with torch.no_grad():
        before = net(*ASKED)
        lora = adapters(net)
        assert torch.equal(AdaptedNet(net, lora).using(lora)(*ASKED), before)


def test_only_the_adapters_get_gradients_and_all_of_them_do(net):
    lora = adapters(net)
    AdaptedNet(net, lora).using(lora)(*ASKED).square().sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert all(p.grad.abs().sum() > 0 for n, p in lora.named_parameters() if n.endswith("B"))


def test_each_attention_layer_has_an_adapter_under_its_own_name(net):
    lora = adapters(net)
    wanted = {n for n, _ in net.named_modules() if n.rpartition(".")[2] in TARGETS}
    assert set(lora.layers) == wanted
    assert set(lora.state_dict()) == {f"{name}.{half}" for name in wanted for half in "AB"}
    assert all(update.scale == 2.0 for update in lora.updates().values())


def test_adapted_layers_are_those_of_merged_weights(net):
    lora = adapters(net, targets=[*TARGETS, "ff.0.proj", "ff.1"])
    for p in lora.parameters():
        torch.nn.init.normal_(p, std=0.3)
    with torch.no_grad():
        adapted = AdaptedNet(net, lora).using(lora)(*ASKED)
        merged = make_unet()
        merged.load_state_dict(net.state_dict())
        for name, update in lora.updates().items():
            merged.get_submodule(name).weight += update.weight(merged.get_submodule(name).weight.shape)
        torch.testing.assert_close(adapted, merged(*ASKED), rtol=1e-5, atol=1e-5)


def test_a_twin_is_used_in_its_own_place_only(net):
    """Asking with the average's adapters between two calls with those in training changes neither."""
    lora = adapters(net)
    twin, adapted = twin_of(lora), AdaptedNet(net, lora)
    for p in lora.parameters():
        torch.nn.init.normal_(p)
    with torch.no_grad():
        trained, averaged = adapted.using(lora), adapted.using(twin)
        one, other = trained(*ASKED), averaged(*ASKED)
        assert torch.equal(trained(*ASKED), one)
        assert not torch.equal(one, other)
        assert adapted.adapters is lora


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rank": 0}, r"rank must be at least 1, got 0"),
        ({"alpha": 0.0}, r"alpha must be above 0, got 0\.0"),
        ({"targets": ["to_q", "q_proj"]}, r"got 'q_proj'"),
        ({"targets": []}, r"such as to_q, got ''"),
    ],
)
def test_settings_that_make_no_adapters_are_refused(changes, says, net):
    with pytest.raises(ValueError, match=says):
        adapters(net, **changes)
