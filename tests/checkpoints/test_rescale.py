import pytest
import torch

from ldm.checkpoints import convert_checkpoint, load_model, save_model
from ldm.checkpoints.rescale import with_scale

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def model(stable_diffusion):
    """A model whose latents are normalised channel by channel."""
    made = stable_diffusion("sd1", 4)
    statistics = {"scaling_factor": [0.2, 0.5, 1.0, 3.0], "shift_factor": [0.1, -0.2, 0.0, 1.0]}
    made.config["autoencoder"] |= statistics
    made.components["autoencoder"].set_latent_statistics(*statistics.values())
    return made


@torch.no_grad()
def behaviour(net):
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = net.encode(image)
    return net.normalise(posterior.mean), posterior.logvar, net.from_latent(net.normalise(posterior.mean))


def test_latents_and_images_stay_what_they_are(model):
    old = model.components["autoencoder"]
    before = behaviour(old)
    new = with_scale(model, 0.25)
    latent, logvar, image = behaviour(new.components["autoencoder"])
    k = torch.tensor([0.2, 0.5, 1.0, 3.0]).view(1, -1, 1, 1) / 0.25
    torch.testing.assert_close(latent, before[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logvar, before[1] + 2 * k.log(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(image, before[2], rtol=1e-4, atol=1e-4)
    assert new.config["autoencoder"]["scaling_factor"] == 0.25
    assert all(torch.equal(a, b) for a, b in zip(behaviour(old), before, strict=True))


def test_an_original_file_of_it_is_the_same_model(model, tmp_path):
    save_model(tmp_path / "a.safetensors", model.components, model.config)
    convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors", format="original")
    read = load_model(tmp_path / "b.safetensors")
    assert read.config["autoencoder"]["scaling_factor"] == 0.18215
    latent, _, image = behaviour(read.components["autoencoder"])
    before = behaviour(model.components["autoencoder"])
    torch.testing.assert_close(latent, before[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(image, before[2], rtol=1e-4, atol=1e-4)
