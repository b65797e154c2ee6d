"""Modules offer the planner steps without data; nothing of the step is replaced."""

from functools import partial

import pytest
import torch

from ldm.diffusion import prediction, schedule, time_sampling, weighting
from ldm.diffusion.process import Diffusion
from ldm.models.discriminator import PatchDiscriminator
from ldm.models.lora import LoRA
from ldm.models.text_encoder import NullTextEncoder, TinyTextEncoder
from ldm.models.unet import UNet
from ldm.models.vae import AutoencoderKL
from ldm.training.autoencoder import AutoencoderTraining
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.optim import LRSchedule
from ldm.training.probe import Probe, Trained

SIZE = 8
AUTOENCODER = partial(AutoencoderKL, channels=[4, 8], layers_per_block=1, norm_groups=2)
OPTIMISER = {
    "optimizer": partial(torch.optim.AdamW, lr=1e-3),
    "lr_schedule": LRSchedule(warmup_images=1, total_images=1),
    "batch_size": 2,
}


class FrozenText(TinyTextEncoder):
    trainable = False


def diffusion(text=TinyTextEncoder, **changes):
    text_encoder = (
        NullTextEncoder if text is None else partial(text, width=8, layers=1, num_heads=2, max_length=6)
    )
    module = LatentDiffusion(
        autoencoder=AUTOENCODER(),
        text_encoder=text_encoder,
        backbone=partial(
            UNet,
            in_channels=4,
            out_channels=4,
            channels=[8, 8],
            layers_per_block=1,
            attention=["none", "cross"],
            num_heads=2,
            context_dim=None if text is None else 8,
            pooled_dim=None if text is None else 8,
            norm_groups=2,
        ),
        diffusion=Diffusion(
            schedule=schedule.cosine(), prediction=prediction.Velocity(), weighting=weighting.Uniform()
        ),
        time_sampling=time_sampling.UniformTimes(),
        sampling={},
        image_size=SIZE,
        **OPTIMISER | changes,
    )
    module.configure_model()
    return module


def probed(module, precomputed=False):
    probe = module.probe(SIZE, precomputed)
    assert isinstance(module, Trained)
    assert isinstance(probe, Probe)
    probe.warm_up()
    probe.attach()
    return probe


def losses(probe):
    return [(index, loss.item()) for index, loss in probe.losses(probe.batch(2))]


def test_a_step_of_a_diffusion_model_has_one_loss():
    probe = probed(diffusion())
    assert "image" in probe.batch(2)
    ((index, loss),) = losses(probe)
    assert index == 0
    assert loss > 0


@pytest.mark.parametrize("text", [FrozenText, TinyTextEncoder, None])
def test_data_encoded_ahead_hold_latents_and_embeddings_of_a_frozen_encoder(text):
    probe = probed(diffusion(text), precomputed=True)
    batch = probe.batch(2)
    assert batch["mean"].shape == batch["std"].shape == (2, 4, 4, 4)
    assert "image" not in batch
    assert ("tokens" in batch) == ("pooled" in batch) == (text is FrozenText)
    assert losses(probe)
    assert probe.resident == ()


def test_cached_latents_are_not_encoded_in_a_step():
    assert "mean" in probed(diffusion(cache_latents=True)).batch(2)


def test_adapters_have_the_frozen_backbone_beside_them():
    module = diffusion(adapters=partial(LoRA, rank=1, alpha=1.0, targets=["to_q"]))
    probe = probed(module)
    assert isinstance(probe.net, UNet)
    assert any(net is probe.net for net in probe.frozen)
    assert probe.passes == 2
    assert losses(probe)
    ahead = module.probe(SIZE, precomputed=True)
    assert ahead.resident == (ahead.net,)


def test_a_first_stage_has_the_adversarial_losses_from_the_start():
    discriminator = partial(PatchDiscriminator, width=4, layers=1)
    module = AutoencoderTraining(
        autoencoder=AUTOENCODER, discriminator=discriminator, adversarial_start=9, **OPTIMISER
    )
    module.configure_model()
    probe = probed(module)
    assert probe.net is module.net
    assert [index for index, _ in losses(probe)] == [0, 1]


def test_without_a_discriminator_there_is_one_loss():
    module = AutoencoderTraining(autoencoder=AUTOENCODER, **OPTIMISER)
    module.configure_model()
    assert [index for index, _ in losses(probed(module))] == [0]
