import torch
from torch import nn

from ldm.models.discriminator import PatchDiscriminator


def test_one_logit_for_each_patch():
    """The 70x70 PatchGAN: an eighth of the size, less two."""
    net = PatchDiscriminator(width=8)
    assert net(torch.randn(2, 3, 64, 96)).shape == (2, 1, 6, 10)


def test_a_verdict_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    net, image = PatchDiscriminator(width=8), torch.randn(3, 3, 32, 32)
    assert torch.allclose(net(image)[:1], net(image[:1]), atol=1e-5)


def test_weights_start_as_those_of_the_original():
    """N(0, 0.02^2), whatever the number of inputs, where torch would take U(-1, 1) / sqrt(inputs)."""
    torch.manual_seed(0)
    net = PatchDiscriminator()
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm):
            mean, n = (0.0 if isinstance(module, nn.Conv2d) else 1.0), module.weight.numel()
            assert abs(module.weight.mean().item() - mean) < 4 * 0.02 / n**0.5
            assert abs(module.weight.std().item() / 0.02 - 1) < 4 / (2 * n) ** 0.5
