from functools import partial

import lightning.pytorch as pl
import pytest
import torch

from ldm.data.synthetic import SyntheticData
from ldm.models.discriminator import PatchDiscriminator
from ldm.models.vae import AutoencoderKL
from ldm.training.autoencoder import AutoencoderTraining, adaptive_weight
from ldm.training.callbacks.averages import FollowAverages
from ldm.training.optim import LRSchedule

NET = partial(
    AutoencoderKL,
    latent_channels=8,
    channels=[8, 16],
    layers_per_block=1,
    mid_attention=False,
    norm_groups=4,
    patch_shortcut=True,
)


def module(**changes):
    return AutoencoderTraining(
        autoencoder=NET,
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        lr_schedule=LRSchedule(warmup_images=1, total_images=1),
        batch_size=12,
        **changes,
    )


def fit(net, tmp_path, steps):
    data = SyntheticData(batch_size=12, image_size=16)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=[FollowAverages()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
    )
    trainer.fit(net, datamodule=data)
    return trainer, data


def test_adaptive_weight_is_the_ratio_of_gradient_norms():
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    weight = adaptive_weight((10 * w).sum(), (2 * w).sum(), w)
    norm = 2**0.5
    torch.testing.assert_close(weight, torch.tensor(10 * norm / (2 * norm + 1e-4)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_latents_have_mean_zero_and_overall_variance_one(tmp_path):
    net = module()
    _, data = fit(net, tmp_path, 3)
    images = data.training_images()
    for whitening in (0.0, 0.5, 1.0):
        net.ema.set_latent_statistics(**net.latent_statistics(images, whitening))
        z = sampled(net.ema, images)
        torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8), atol=5e-2, rtol=0)
        torch.testing.assert_close(z.square().mean(), torch.tensor(1.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(8), atol=2e-2, rtol=0)


def sampled(net, images):
    """Normalised latents by noise of another generator than that of the statistics."""
    noise = torch.randn(net.encode(images).mean.shape, generator=torch.Generator().manual_seed(1))
    return net.to_latent(images, noise)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("whitening", [None, 0.0, 1.0])
def test_the_variance_of_latents_counts_that_of_the_posterior(whitening, tmp_path):
    """A wide posterior, as a large weight of the KL divergence makes it: means alone would give 2 for 1."""
    net = module()
    _, data = fit(net, tmp_path, 1)
    images = data.training_images()
    spread = net.ema.encode(images).mean.std()
    torch.nn.init.constant_(net.ema.quant_conv.bias[8:], 2 * spread.log())
    net.ema.set_latent_statistics(**net.latent_statistics(images, whitening))
    z = sampled(net.ema, images)
    torch.testing.assert_close((z - z.mean()).square().mean(), torch.tensor(1.0), atol=0.1, rtol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_only_the_autoencoders_steps_count_and_both_nets_learn(tmp_path):
    net = module(
        discriminator=partial(PatchDiscriminator, width=8, layers=1),
        adversarial_start=2,
        adversarial_weight=0.1,
    )
    net.configure_model()
    before = [p.detach().clone() for p in (*net.net.parameters(), *net.discriminator.parameters())]
    trainer, _ = fit(net, tmp_path, 5)
    assert trainer.global_step == 5
    after = [*net.net.parameters(), *net.discriminator.parameters()]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(moved) > 0.8 * len(moved)


def test_loss_is_the_weighted_sum_of_its_terms():
    net = module(l1_weight=2.0, l2_weight=3.0, kl_weight=0.5)
    net.configure_model()
    image, output = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1)
    posterior = net.net.encode(torch.zeros(1, 3, 16, 16))
    loss = net.reconstruction_loss(image, output, posterior)
    torch.testing.assert_close(loss, 2 * 0.1 + 3 * 0.01 + 0.5 * posterior.kl())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_scale_for_all_latents_gives_them_variance_one(tmp_path):
    """What Stable Diffusion does: no shift and one factor, which any file can say."""
    net = module()
    _, data = fit(net, tmp_path, 3)
    images = data.training_images()
    statistics = net.latent_statistics(images, None)
    assert statistics["shift_factor"] == 0.0
    net.ema.set_latent_statistics(**statistics)
    assert sampled(net.ema, images).std().item() == pytest.approx(1.0, rel=1e-2)
