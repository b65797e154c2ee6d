from types import SimpleNamespace

import pytest
import torch

from ldm.diffusion.conditioning import Conditioning
from ldm.models.identity import IdentityAutoencoder
from ldm.models.text_encoder import ClassEncoder
from ldm.models.vae import AutoencoderKL
from ldm.training.encoder import Encoder

CAPTIONS = ["red", "green", "blue"]


def vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        latent_channels=2, channels=[4], layers_per_block=1, mid_attention=False, norm_groups=2
    )


def encoder(autoencoder=None, dropout=0.0, sample=True, cache=False, seed=0):
    return Encoder(autoencoder or vae(), dropout, sample, cache, seed)


def text():
    torch.manual_seed(0)
    return ClassEncoder(captions=CAPTIONS, width=4)


def batch(keys=(0, 1, 2), visit=0):
    key = torch.tensor(keys)
    image = torch.linspace(-1, 1, 3)[key, None, None, None].expand(-1, 3, 8, 8).contiguous()
    caption = [CAPTIONS[k] for k in keys]
    return {"image": image, "caption": caption, "key": key, "visit": torch.full_like(key, visit)}


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5])
def test_caption_dropout_is_a_probability_below_one(dropout):
    with pytest.raises(ValueError, match=r"^caption_dropout must be in \[0, 1\), got "):
        encoder(dropout=dropout)


def test_the_autoencoder_is_frozen():
    net = encoder().autoencoder
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


def test_a_latent_depends_on_seed_key_and_visit_only():
    both, alone = encoder()(batch(), text())[0], encoder()(batch(keys=[2]), text())[0]
    torch.testing.assert_close(both[2:], alone)
    for other in (encoder(seed=1)(batch(), text())[0], encoder()(batch(visit=1), text())[0]):
        assert not torch.allclose(both, other)


def test_without_sampling_the_latent_is_the_mean():
    net = encoder(sample=False)
    mean = net.moments(batch()).chunk(2, dim=1)[0]
    assert torch.equal(net.latents(batch()), net.autoencoder.normalise(mean))


def test_cached_latents_are_drawn_anew_at_each_visit():
    net = encoder(cache=True)
    first, later = net.latents(batch()), net.latents(batch(visit=1))
    assert not torch.equal(first, later)
    assert torch.equal(first, net.latents(batch()))
    assert len(net.cache.rows) == 3


def test_captions_are_dropped_by_key_and_visit_and_never_in_validation():
    words, net = text(), encoder(IdentityAutoencoder(), dropout=0.99)
    empty = words.encode([""]).pooled
    assert torch.equal(net(batch(), words)[1].pooled, empty.expand(3, -1))
    draw = torch.arange(3)
    assert torch.equal(net.held_out(batch(), words, draw, seed=0)[1].pooled, words.encode(CAPTIONS).pooled)


def test_latents_of_a_validation_are_functions_of_the_numbered_draw():
    net, draw = encoder(), torch.arange(3)
    first = net.held_out(batch(), text(), draw, seed=5)[0]
    assert torch.equal(first, net.held_out(batch(visit=9), text(), draw, seed=5)[0])
    assert not torch.equal(first, net.held_out(batch(), text(), draw + 1, seed=5)[0])
    assert not torch.equal(first, net.held_out(batch(), text(), draw, seed=6)[0])


def test_data_with_latents_are_validated_and_need_no_encoding():
    seen, empty = [], Conditioning(pooled=torch.zeros(1, 4))
    data = SimpleNamespace(verify=lambda *nets: seen.append(nets), empty=empty)
    net, words = encoder(cache=True), text()
    assert encoder().flops(8) > 0
    net.attach(data, words, torch.device("cpu"))
    assert seen == [(net.autoencoder, words)]
    assert net.flops(8) == 0
    stored = {
        **batch(),
        "mean": torch.ones(3, 2, 8, 8),
        "std": torch.zeros(3, 2, 8, 8),
        "pooled": torch.ones(3, 4),
    }
    x0, cond = net(stored, words)
    assert torch.equal(x0, net.autoencoder.normalise(torch.ones(3, 2, 8, 8)))
    assert torch.equal(cond.pooled, torch.ones(3, 4))
    assert not net.cache.rows
