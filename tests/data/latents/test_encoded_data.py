"""Training from latents is training from images: the same loss at the same draws, without the images."""

import io
import tarfile
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.laion import LaionData
from ldm.data.latents.datamodule import LatentData
from ldm.data.latents.encode import Encoder
from ldm.data.latents.precompute import precompute
from ldm.diffusion import prediction, schedule, time_sampling, weighting
from ldm.diffusion.process import Diffusion
from ldm.models.identity import IdentityAutoencoder
from ldm.models.text_encoder import TinyTextEncoder
from ldm.models.unet import UNet
from ldm.models.vae import AutoencoderKL
from ldm.training.callbacks.validation import ValidationLoss
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.optim import LRSchedule

ORDER = {"batch_size": 6, "image_size": 16, "lanes": 2, "window": 5, "seed": 1}


class FrozenText(TinyTextEncoder):
    """Stands for CLIP: it is not trained."""

    trainable = False


def text(kind=FrozenText):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return kind(width=8, layers=1, num_heads=2, max_length=8, token_dim=4)


def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(
            channels=[8, 8], latent_channels=3, layers_per_block=1, norm_groups=4, scaling_factor=0.7
        )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i in range(14):
            pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), dtype=np.uint8)
            image = io.BytesIO()
            Image.fromarray(pixels).save(image, "PNG")
            for extension, data in (("png", image.getvalue()), ("txt", f"photo of {i}".encode())):
                info = tarfile.TarInfo(f"{i:08d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder / "0.tar"


def module(autoencoder, text_encoder, data, **options):
    backbone = partial(
        UNet,
        in_channels=3,
        out_channels=3,
        channels=[8, 8],
        layers_per_block=1,
        attention=["none", "cross"],
        mid_attention="none",
        context_dim=8,
        pooled_dim=8,
        norm_groups=4,
    )
    net = LatentDiffusion(
        autoencoder=autoencoder,
        text_encoder=text_encoder,
        backbone=backbone,
        diffusion=Diffusion(
            schedule=schedule.cosine(), prediction=prediction.Velocity(), weighting=weighting.Uniform()
        ),
        time_sampling=time_sampling.UniformTimes(),
        sampling={},
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        lr_schedule=LRSchedule(warmup_images=1, total_images=1),
        batch_size=6,
        caption_dropout=0.4,
        image_size=16,
        **options,
    )
    net.configure_model()
    for nets in (net.nets, net.ema):
        torch.nn.init.normal_(nets["backbone"].conv_out.weight, generator=torch.Generator().manual_seed(0))
    net._trainer = SimpleNamespace(datamodule=data)
    net.on_fit_start()
    return net


def both(images, folder, autoencoder, dtype, text_encoder=text, batch_size=6, **options):
    """The two ways to train: pairs of a module and its data."""
    words = text_encoder()
    encoder = Encoder(
        autoencoder=autoencoder,
        text_encoder=None if words.trainable else words,
        device=torch.device("cpu"),
        dtype=dtype,
    )
    source = LaionData(shards=str(images), **ORDER)
    precompute(source, encoder, folder, batch_size=batch_size)
    encoded = LatentData(folder=str(folder), **ORDER)
    return [(module(autoencoder, text_encoder, data, **options), data) for data in (source, encoded)]


def losses(net, data):
    """Of three epochs, and the gradient's norm of each step."""
    found, norms = [], []
    for step in range(7):
        output = net.training_step(data.batch(step), step)
        net.zero_grad()
        output["loss"].backward()
        found.append(output["loss_per_sample"])
        norms.append(torch.stack([p.grad.norm() for p in net.nets.parameters() if p.grad is not None]))
    return torch.stack(found), torch.stack(norms)


@pytest.mark.parametrize("autoencoder", [IdentityAutoencoder, vae])
def test_the_loss_is_bit_equal_in_float32(autoencoder, images, tmp_path):
    """All draws are the same, posterior and dropout included; images are encoded alone, as by the cache."""
    words, options = partial(text, TinyTextEncoder), {"batch_size": 1, "cache_latents": True}
    pairs = both(images, tmp_path / "latents", autoencoder(), "fp32", words, **options)
    for mine, theirs in zip(losses(*pairs[0]), losses(*pairs[1]), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 2e-6), ("fp16", 2e-3), ("bf16", 1.5e-2)])
def test_the_loss_is_that_of_images_to_within_the_precision_of_the_store(dtype, tolerance, images, tmp_path):
    pairs = both(images, tmp_path / "latents", vae(), dtype)
    for mine, theirs in zip(losses(*pairs[0]), losses(*pairs[1]), strict=True):
        assert bool(((mine - theirs).abs() <= tolerance * mine.abs() + tolerance / 10).all())


def test_latents_and_dropped_captions_change_from_visit_to_visit(images, tmp_path):
    net, data = both(images, tmp_path / "latents", vae(), "fp16")[1]
    batch = data.batch(0)
    later = {**batch, "visit": batch["visit"] + 1}
    assert not torch.equal(net.encoder.latents(batch), net.encoder.latents(later))
    u = torch.tensor([0.0, 0.9, 0.1, 0.9, 0.9, 0.9])
    tokens = net.encoder.conditioning(batch, net.text_encoder(net.nets), 0.4, u).tokens
    assert torch.equal(tokens[0], data.empty.tokens[0])
    assert torch.equal(tokens[2], data.empty.tokens[0])
    assert torch.equal(tokens[[1, 3, 4, 5]], batch["tokens"].float()[[1, 3, 4, 5]])


def test_the_validation_loss_is_that_of_images(images, tmp_path):
    found = []
    for net, data in both(images, tmp_path / "latents", vae(), "fp32"):
        callback = ValidationLoss(every_n_steps=1, draws=64, strata=8, batch_size=16)
        callback._samples = data.validation_samples(64)
        found.append(callback._losses(net, 0, 1))
    torch.testing.assert_close(found[0], found[1], rtol=2e-5, atol=2e-6)


def test_what_is_encoded_ahead_is_not_counted_as_work(images, tmp_path):
    work = [net.flops_per_image() for net, _ in both(images, tmp_path / "latents", vae(), "fp16")]
    assert work[1] < work[0]


def test_data_of_other_nets_is_refused_before_the_first_step(images, tmp_path):
    _, (_, data) = both(images, tmp_path / "latents", vae(), "fp16")
    other = vae()
    with torch.no_grad():
        other.encoder.conv_in.bias[0] += 0.01
    with pytest.raises(ValueError, match="are stale: made by another autoencoder"):
        module(other, text, data)
