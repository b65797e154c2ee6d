import torch

from ldm.models.identity import IdentityAutoencoder

IMAGE = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_latent_is_the_image():
    net = IdentityAutoencoder()
    assert (net.latent_channels, net.downscale) == (3, 1)
    for value in (net.to_latent(IMAGE), net.from_latent(IMAGE), net.decode(IMAGE), net.normalise(IMAGE)):
        assert torch.equal(value, IMAGE)
    assert torch.equal(net.encode(IMAGE).mean, IMAGE)


def test_posterior_has_no_width():
    noise = torch.randn(IMAGE.shape, generator=torch.Generator().manual_seed(1))
    net = IdentityAutoencoder()
    assert torch.allclose(net.encode(IMAGE).sample(noise), IMAGE, atol=1e-5)
    assert torch.equal(net.to_latent(IMAGE, noise), IMAGE)


def test_it_has_nothing_to_train():
    assert IdentityAutoencoder(1).latent_channels == 1
    assert not list(IdentityAutoencoder().parameters())
    assert not IdentityAutoencoder().state_dict()
