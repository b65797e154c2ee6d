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
    # 768 values of a channel: standard error 0.026
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(8), atol=8e-2, rtol=0)


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
    torch.testing.assert_close(loss, 2 * 0.1 + 3 * 0.01 + 0.5 * posterior.kl() / 48)


class Features(torch.nn.Module):
    """A perceptual distance."""

    def forward(self, image, output):
        return (image - output).square().flatten(1).sum(1).sqrt()


def original_loss(image, output, posterior, kl_weight):
    """The loss of the original code without its discriminator, as its authors reduce it.

    The perceptual distance is added to each pixel's error; the sum over all pixels of the batch is divided by
    the number of images, as is that of the divergences.
    """
    error = (image - output).abs() + Features()(image, output)[:, None, None, None]
    return error.sum() / len(image) + kl_weight * posterior.kl().sum() / len(image)


@pytest.mark.parametrize("size", [16, 32])
def test_the_loss_is_the_originals_over_the_elements_of_an_image(size):
    torch.manual_seed(0)
    net = module(kl_weight=1e-2, perceptual=Features)
    net.configure_model()
    image, output = torch.randn(2, 2, 3, size, size).unbind()
    posterior = net.net.encode(image)
    loss = net.reconstruction_loss(image, output, posterior).mean()
    torch.testing.assert_close(loss * 3 * size**2, original_loss(image, output, posterior, 1e-2))


def test_the_adversarial_term_is_the_originals_over_the_elements_of_an_image():
    """Ratio bounded by 1e4 where it is of a sum: a discriminator whose gradient is tiny reaches the bound."""
    torch.manual_seed(0)
    net = module(discriminator=partial(PatchDiscriminator, width=8, layers=1), adversarial_weight=0.5)
    net.configure_model()
    torch.nn.init.normal_(net.discriminator.net[-1].weight, 0.0, 1e-6)
    torch.nn.init.zeros_(net.discriminator.net[-1].bias)
    torch.nn.init.normal_(net.net.decoder.conv_out.weight, 0.0, 0.02)
    image = torch.randn(2, 3, 16, 16)
    posterior = net.net.encode(image)
    output = net.net.decode(posterior.mean)
    losses = net.reconstruction_loss(image, output, posterior)
    original, fool = (
        original_loss_without_features(image, output, posterior),
        -net.discriminator(output).mean(),
    )
    weight = adaptive_weight(original, fool, net.net.last_layer)
    assert weight == 1e4
    _, total = next(net.objectives(image, output, losses, True))
    torch.testing.assert_close(total * 768, original + 0.5 * weight * fool)


def original_loss_without_features(image, output, posterior):
    return ((image - output).abs().sum() + 1e-6 * posterior.kl().sum()) / len(image)


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
