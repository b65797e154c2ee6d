import torch

from ldm.models.discriminator import PatchDiscriminator


def test_one_logit_for_each_patch():
    """The 70x70 PatchGAN: an eighth of the size, less two."""
    net = PatchDiscriminator(width=8)
    assert net(torch.randn(2, 3, 64, 96)).shape == (2, 1, 6, 10)


def test_a_verdict_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    net, image = PatchDiscriminator(width=8), torch.randn(3, 3, 32, 32)
    assert torch.allclose(net(image)[:1], net(image[:1]), atol=1e-5)
