import pytest

from ldm.data.latents.precompute import finish, precompute


@pytest.fixture
def folder(making, images, tmp_path):
    """Latents of the images with embeddings of their captions."""
    precompute(making.laion(images), making.encoder(making.vae(), making.text()), tmp_path / "latents")
    finish(tmp_path / "latents")
    return tmp_path / "latents"
