"""The nets of a checkpoint that encode data ahead of time."""

from functools import partial

import pytest
import torch

from ldm.checkpoints.native import save_model
from ldm.data.latents.frozen import frozen_encoder
from ldm.models.text_encoder import NullTextEncoder, TinyTextEncoder
from ldm.models.vae import AutoencoderKL
from ldm.utils.errors import UserError

AUTOENCODER = {"channels": [8], "layers_per_block": 1, "norm_groups": 4, "latent_channels": 2}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    node = {"_target_": "ldm.models.vae.AutoencoderKL", **AUTOENCODER}
    save_model(path, {"autoencoder": AutoencoderKL(**AUTOENCODER)}, {"autoencoder": node})
    return path


def test_the_nets_are_frozen(checkpoint):
    encoder = frozen_encoder(checkpoint, device="cpu")
    assert encoder.text_encoder is None
    assert not encoder.autoencoder.training
    assert not any(p.requires_grad for p in encoder.autoencoder.parameters())


def test_another_text_encoder_has_the_weights_of_a_run_with_the_seed(checkpoint):
    state = torch.get_rng_state()
    texts, frozen = [], partial(FrozenTextEncoder, 8, 1, 1, 8)
    for seed in (3, 3, 4):
        encoder = frozen_encoder(checkpoint, frozen, seed=seed, device="cpu")
        texts.append(next(encoder.text_encoder.parameters()))
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_checkpoint_without_an_autoencoder_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    node = {"_target_": "ldm.models.text_encoder.NullTextEncoder"}
    save_model(path, {"text_encoder": NullTextEncoder()}, {"text_encoder": node})
    with pytest.raises(UserError, match="has no autoencoder"):
        frozen_encoder(path, device="cpu")


class FrozenTextEncoder(TinyTextEncoder):
    trainable = False
