"""Latents that are not what a run needs are an error, whatever differs, and never used by mistake."""

import pytest
import torch

from ldm.data.latents.precompute import precompute
from ldm.data.shards.filters import Filters
from ldm.models.text_encoder import TinyTextEncoder

BUCKETS = [[16, 32], [24, 24], [32, 16]]


def test_the_nets_they_were_made_by_are_accepted(making, folder):
    making.latents(folder).verify(making.vae(), making.text())
    scaled = making.vae(scaling_factor=0.2, shift_factor=[1.0, 2.0, 3.0, 4.0])
    making.latents(folder).verify(scaled, making.text())  # the model's business: what is stored comes before


def test_other_nets_are_refused(making, folder):
    other = making.vae()
    with torch.no_grad():
        other.encoder.conv_in.weight[0, 0, 0, 0] += 1e-3
    says = r"stale: made by another autoencoder, with weights \w{12}, not \w{12}"
    with pytest.raises(ValueError, match=says):
        making.latents(folder).verify(other, making.text())
    with pytest.raises(ValueError, match=r"same weights but is built in another way: its mean"):
        making.latents(folder).verify(making.vae(norm_groups=2), making.text())
    with pytest.raises(ValueError, match=r"stale: made by another text encoder"):
        making.latents(folder).verify(making.vae(), making.text(seed=1))
    making.latents(folder, embeddings=False).verify(making.vae(), making.text(seed=1))
    trained = TinyTextEncoder(width=8, layers=1, num_heads=2, max_length=8, token_dim=4)
    with pytest.raises(ValueError, match=r"that of this run is trained: embeddings=false"):
        making.latents(folder).verify(making.vae(), trained)


@pytest.mark.parametrize(
    ("seeds", "nets", "source", "differs"),
    [
        ((1, 0), {}, {}, "autoencoder"),
        ((0, 1), {}, {}, "text_encoder"),
        ((0, None), {}, {}, "text_encoder"),
        ((0, 0), {"dtype": "bf16"}, {}, "dtype"),
        ((0, 0), {"precision": "bf16"}, {}, "precision"),
        ((0, 0), {}, {"image_size": 24}, "image_size"),
        ((0, 0), {}, {"buckets": BUCKETS}, "buckets"),
        ((0, 0), {}, {"fallback": "title"}, "fallback"),
        ((0, 0), {}, {"filters": Filters(min_size=9)}, "filters"),
    ],
)
def test_going_on_with_another_setting_is_refused(making, seeds, nets, source, differs, folder, images):
    words = None if seeds[1] is None else making.text(seeds[1])
    encoder = making.encoder(making.vae(seeds[0]), words, **nets)
    says = rf"holds latents made with another {differs}: choose another folder"
    with pytest.raises(ValueError, match=says):
        precompute(making.laion(images, **source), encoder, folder)


def test_going_on_with_other_images_is_refused(making, folder, images):
    making.write(images / "00001.tar", 11, 5)
    for index in images.glob(".ldm-index-*"):
        for file in index.iterdir():
            file.unlink()
        index.rmdir()
    with pytest.raises(ValueError, match="made with another source:"):
        precompute(making.laion(images), making.encoder(making.vae(), making.text()), folder)


def test_shards_of_another_cache_in_the_folder_are_refused(making, folder, images, tmp_path):
    precompute(making.laion(images), making.encoder(making.vae(seed=1), making.text()), tmp_path / "other")
    (folder / "00001.tar").write_bytes((tmp_path / "other" / "00001.tar").read_bytes())
    with pytest.raises(ValueError, match=r"00001.tar: it was made with other settings than latents.json"):
        all(making.latents(folder).batch(step) for step in range(4))
    (folder / "latents.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards, but no latents.json"):
        precompute(making.laion(images), making.encoder(making.vae(seed=1), making.text()), folder)
    with pytest.raises(FileNotFoundError, match=r"no latents in .*ldm-data precompute"):
        making.latents(folder)


def test_a_changed_latents_json_is_noticed(making, folder):
    path = folder / "latents.json"
    path.write_text(path.read_text().replace('"image_size": 16', '"image_size": 32'))
    with pytest.raises(ValueError, match=r"latents.json cannot be used: it was changed by hand"):
        making.latents(folder, image_size=32)


@pytest.mark.parametrize("options", [{"crop": "random"}, {"flip": 0.5}])
def test_images_that_change_are_refused(making, options, images, tmp_path):
    with pytest.raises(ValueError, match=r"crop must be centre and flip 0"):
        precompute(making.laion(images, **options), making.encoder(), tmp_path / "latents")
    assert not (tmp_path / "latents").exists()
