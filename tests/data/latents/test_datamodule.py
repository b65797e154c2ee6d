"""Latents are read in the order of their images; what is damaged, missing or of another size is an error."""

import pytest
import torch

from ldm.data.latents.datamodule import LatentData
from ldm.data.latents.precompute import precompute
from ldm.data.shards.filters import Filters

BUCKETS = [[16, 32], [24, 24], [32, 16]]


def test_further_filters_choose_among_those_encoded(making, images, tmp_path):
    precompute(making.laion(images), making.encoder(), tmp_path / "latents")
    found = making.latents(tmp_path / "latents", filters=Filters(min_aesthetic=2.0))
    assert torch.equal(found.training_keys(), making.laion(images, filters=found.filters).training_keys())


def test_the_loader_gives_the_batches_with_any_workers(making, images, tmp_path):
    precompute(making.laion(images, num_workers=2), making.encoder(), tmp_path / "latents")
    for workers in (0, 2):
        found = making.latents(tmp_path / "latents", num_workers=workers)
        found.resume(2)
        batches = iter(found.train_dataloader())
        for step in (2, 3, 4):
            mine, expected = next(batches), making.laion(images).batch(step)
            assert torch.equal(mine["mean"], expected["image"])
            assert torch.equal(mine["key"], expected["key"])


def test_embeddings_are_left_out_where_they_are_not_wanted(making, images, tmp_path):
    precompute(making.laion(images), making.encoder(text_encoder=making.text()), tmp_path / "both")
    precompute(making.laion(images), making.encoder(), tmp_path / "captions")
    assert "tokens" in making.latents(tmp_path / "both").batch(0)
    assert "tokens" not in making.latents(tmp_path / "both", embeddings=False).batch(0)
    assert making.latents(tmp_path / "captions").empty is None
    with pytest.raises(ValueError, match=r"captions only"):
        making.latents(tmp_path / "captions", embeddings=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image_size": 24}, r"made with image_size 16, not 24: "),
        ({"buckets": BUCKETS}, r"made with buckets None, not \[\[16, 32\], "),
    ],
)
def test_other_sizes_are_refused(making, options, says, folder):
    with pytest.raises(ValueError, match=says):
        making.latents(folder, **options)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_truncated_shard_is_an_error(making, indexed, folder):
    path = folder / "00002.tar"
    path.write_bytes(path.read_bytes()[:-9000])
    if not indexed:
        for index in folder.glob(".ldm-index-*"):
            for file in index.iterdir():
                file.unlink()
            index.rmdir()
    with pytest.raises(
        ValueError, match=r"00002.tar is cut short .*: remove it and run ldm-data precompute again"
    ):
        all(making.latents(folder).batch(step) for step in range(8))


def test_a_damaged_latent_is_a_bad_sample(making, folder):
    found = making.latents(folder)
    row = found.index.samples[6]
    path = folder / "00000.tar"
    data = bytearray(path.read_bytes())
    data[int(row["image_offset"]) + int(row["image_size"]) - 10] ^= 4
    path.write_bytes(data)
    seen = [key for step in range(4) for key in found.batch(step)["key"].tolist()]
    assert int(row["key"]) not in seen
    assert found.bad["damaged latent"] >= 1


def test_remote_latents_are_read_as_local_ones(making, folder, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        if path.is_file():
            memory.pipe(f"/latents/{path.name}", path.read_bytes())
    remote = LatentData(
        folder="memory://latents", cache=str(tmp_path / "cache"), batch_size=8, image_size=16, **making.ORDER
    )
    mine, local = remote.batch(2), making.latents(folder).batch(2)
    assert all(torch.equal(mine[name], local[name]) for name in ("mean", "std", "tokens", "pooled", "key"))
    remote.verify(making.vae(), making.text())


def test_shards_that_were_not_made_are_counted(making, folder):
    for name in ("00000.tar", "00002.tar"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"2 of 3 shards of latents have not been made, such as "):
        making.latents(folder).verify(making.vae(), making.text())


def test_there_are_no_images_to_train_a_first_stage_on(making, folder):
    with pytest.raises(ValueError, match=r"latents hold no images"):
        making.latents(folder).training_images()
