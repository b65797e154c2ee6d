"""Nets whose output cannot be stored are an error."""

import pytest
import torch

from ldm.data.latents.precompute import precompute
from ldm.models.text_encoder import TinyTextEncoder


def test_a_latent_that_is_not_finite_names_its_sample(making, images, tmp_path):
    net = making.vae()
    with torch.no_grad():
        net.quant_conv.bias[:4] = 1e6
    with pytest.raises(ValueError, match=r"00000.tar, sample \d+: its mean is NaN or infinite as stored"):
        precompute(making.laion(images), making.encoder(net, dtype="fp16"), tmp_path / "latents")
    assert not list((tmp_path / "latents").glob("*.tar"))


def test_text_encoders_that_learn_have_no_embeddings_to_keep(making):
    trained = TinyTextEncoder(width=8, layers=1, num_heads=2, max_length=8, token_dim=4)
    with pytest.raises(ValueError, match=r"captions are kept"):
        making.encoder(text_encoder=trained)
