from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.linalg import svd
from torch.distributions import Normal, kl_divergence

from ldm.models.vae import AutoencoderKL, Posterior
from ldm.utils.construct import construct

CONF = Path(__file__).parents[2] / "conf" / "autoencoder"
CONFIGS = sorted(path.stem for path in CONF.glob("*.yaml"))
TINY: dict[str, Any] = {
    "latent_channels": 5,
    "channels": [4, 8, 8],
    "layers_per_block": 1,
    "norm_groups": 2,
}


def from_yaml(name: str) -> Any:
    """The autoencoder of conf/autoencoder/{name}.yaml on the meta device."""
    with torch.device("meta"):
        node = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
        return construct(node, "autoencoder")()


def images(n: int = 16, seed: int = 0) -> torch.Tensor:
    """Smooth random images in [-1, 1]."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")


def test_sd_has_its_number_of_parameters():
    """Source: stable-diffusion-v1-5, vae/diffusion_pytorch_model.safetensors."""
    assert sum(p.numel() for p in from_yaml("sd").parameters()) == 83_653_863


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_maps_images_to_latents_and_back(name: str):
    net = from_yaml(name)
    edge = 2 * net.downscale
    image = torch.empty(2, 3, edge, 2 * edge, device="meta")
    z = net.to_latent(image)
    assert z.shape == (2, net.latent_channels, 2, 4)
    assert net.from_latent(z).shape == image.shape
    assert net.encode(image).kl().shape == (2,)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "identity"])
def test_every_config_shows_all_arguments(name: str):
    written = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert written.keys() - {"_target_", "_partial_"} == set(AutoencoderKL.__init__.__annotations__) - {
        "return"
    }


def test_kl_equals_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    mean, logvar = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(2))
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum((1, 2, 3))
    assert torch.allclose(Posterior(mean, logvar).kl(), expected, rtol=1e-5)
    assert torch.equal(Posterior(torch.zeros(1, 2), torch.zeros(1, 2)).kl(), torch.zeros(1))


def test_sample_has_the_posterior_mean_and_variance():
    mean, logvar = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0)
    noise = torch.randn(1, 1, 500, 200, generator=torch.Generator().manual_seed(0))
    draws = Posterior(mean, logvar).sample(noise)
    assert abs(float(draws.mean()) - 2.0) < 0.01
    assert abs(float(draws.var().log()) + 1.0) < 0.02
    assert torch.equal(Posterior(mean, logvar).sample(torch.zeros(1, 1, 1, 1)), mean)


def test_shortcut_starts_as_principal_components():
    """Oracle: the reconstruction of patches from their largest singular vectors, in numpy."""
    net = AutoencoderKL(**TINY, patch_shortcut=True)
    image = images()
    net.init_shortcut(image)
    with torch.no_grad():
        output = net.decode(net.encode(image).mean)
    patches = image.numpy().astype(np.float64).reshape(16, 3, 4, 4, 4, 4)  # (n, c, rows, f, columns, f)
    patches = patches.transpose(0, 2, 4, 1, 3, 5).reshape(16 * 16, 48)
    mean = patches.mean(0)
    u, s, vt = svd(patches - mean, full_matrices=False)
    expected = ((u[:, :5] * s[:5]) @ vt[:5] + mean).reshape(16, 4, 4, 3, 4, 4)
    expected = expected.transpose(0, 3, 1, 4, 2, 5).reshape(16, 3, 16, 16)
    assert np.abs(output.numpy() - expected).max() < 1e-5
    error = float(((output - image) ** 2).sum())
    assert error == pytest.approx(float((s[5:] ** 2).sum()), rel=1e-3)


def test_shortcut_latents_are_uncorrelated_and_sorted_by_variance():
    net = AutoencoderKL(**TINY, patch_shortcut=True)
    net.init_shortcut(images())
    with torch.no_grad():
        z = net.encode(images()).mean.movedim(1, -1).flatten(0, -2).double()
    covariance = torch.cov(z.T)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-4 * covariance.max()
    assert (covariance.diag().diff() <= 0).all()
    assert z.mean(0).abs().max() < 1e-5


def test_gradients_flow_from_the_start_beside_the_shortcut():
    net = AutoencoderKL(**TINY, patch_shortcut=True)
    net.init_shortcut(images())
    posterior = net.encode(images(2, seed=1))
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0))
    (net.decode(posterior.sample(noise)) - images(2, seed=1)).square().mean().backward()
    for layer in (net.patch_in, net.patch_out, net.decoder.conv_out, net.quant_conv):
        assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("shortcut", [True, False])
def test_every_parameter_gets_a_gradient_after_one_step(shortcut: bool):
    torch.manual_seed(0)
    net = AutoencoderKL(**TINY, patch_shortcut=shortcut)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        posterior = net.encode(images(2))
        (net.decode(posterior.sample(torch.ones_like(posterior.mean))) - images(2)).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("factors", [(0.18215, 0.0), ([1.0, 2.0, 3.0, 4.0, 5.0], [0.1, 0.2, 0.3, 0.4, 0.5])])
def test_normalisation_is_affine_and_undone(factors: tuple[Any, Any]):
    torch.manual_seed(0)
    scale, shift = factors
    net = AutoencoderKL(**TINY, scaling_factor=scale, shift_factor=shift).eval()
    with torch.no_grad():
        raw = net.encode(images(2)).mean
        z = net.to_latent(images(2))
        expected = (raw - torch.tensor(shift).view(-1, 1, 1)) * torch.tensor(scale).view(-1, 1, 1)
        assert torch.allclose(z, expected, atol=1e-6)
        assert torch.allclose(net.from_latent(z), net.decode(raw), atol=1e-4)


def test_latent_statistics_are_in_no_state_dict():
    net = AutoencoderKL(**TINY)
    before = set(net.state_dict())
    net.set_latent_statistics([1.0, 2.0, 3.0, 4.0, 5.0], 0.5)
    assert set(net.state_dict()) == before
    assert not {"scale", "shift"} & before
    assert net.scale.flatten().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_statistics_of_another_number_of_channels_are_named():
    with pytest.raises(ValueError, match=r"shift_factor needs 1 or 5 values, got 2"):
        AutoencoderKL(**TINY, shift_factor=[0.0, 1.0])
