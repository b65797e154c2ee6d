"""Latents that are not what a run needs are an error, whatever differs, and never used by mistake."""

import pytest
import torch

from ldm.data.laion import LaionData
from ldm.data.latents.datamodule import LatentData
from ldm.data.latents.precompute import finish, precompute
from ldm.data.shards.filters import Filters
from ldm.models.text_encoder import TinyTextEncoder

BUCKETS = [[16, 32], [24, 24], [32, 16]]


@pytest.fixture
def folder(making, images, tmp_path):
    precompute(making.laion(images), making.encoder(making.vae(), making.text()), tmp_path / "latents")
    finish(tmp_path / "latents")
    return tmp_path / "latents"


def test_the_nets_they_were_made_by_are_accepted(making, folder):
    making.latents(folder).verify(making.vae(), making.text())
    scaled = making.vae(scaling_factor=0.2, shift_factor=[1.0, 2.0, 3.0, 4.0])
    making.latents(folder).verify(scaled, making.text())  # the model's business: what is stored comes before


def test_other_nets_are_refused(making, folder):
    other = making.vae()
    with torch.no_grad():
        other.encoder.conv_in.weight[0, 0, 0, 0] += 1e-3
    says = r"stale: made by another autoencoder, with weights \w{12}, not \w{12}.*first_stage.checkpoint"
    with pytest.raises(ValueError, match=says):
        making.latents(folder).verify(other, making.text())
    with pytest.raises(ValueError, match=r"same weights but is built in another way: its mean"):
        making.latents(folder).verify(making.vae(norm_groups=2), making.text())
    with pytest.raises(ValueError, match=r"stale: made by another text encoder.*data.embeddings"):
        making.latents(folder).verify(making.vae(), making.text(seed=1))
    making.latents(folder, embeddings=False).verify(making.vae(), making.text(seed=1))
    trained = TinyTextEncoder(width=8, layers=1, num_heads=2, max_length=8, token_dim=4)
    with pytest.raises(ValueError, match=r"that of this run is trained.*data.embeddings=false"):
        making.latents(folder).verify(making.vae(), trained)


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


@pytest.mark.parametrize("indexed", [True, False])
def test_a_truncated_shard_is_an_error(making, indexed, folder):
    path = folder / "00002.tar"
    path.write_bytes(path.read_bytes()[:-9000])
    if not indexed:
        for index in folder.glob(".ldm-index-*"):
            for file in index.iterdir():
                file.unlink()
            index.rmdir()
    says = "when it was indexed" if indexed else r"00002.tar is damaged .*remove it and the index"
    with pytest.raises(ValueError, match=says):
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


def test_shards_of_the_same_name_are_refused(making, images, tmp_path):
    (tmp_path / "more").mkdir()
    making.write(tmp_path / "more" / "00001.tar", 40, 3)
    source = LaionData(shards=[f"{images}/*.tar", f"{tmp_path}/more/*.tar"], batch_size=8, image_size=16)
    with pytest.raises(ValueError, match=r"got 2 of 00001.tar"):
        precompute(source, making.encoder(), tmp_path / "latents")


@pytest.mark.parametrize("options", [{"crop": "random"}, {"flip": 0.5}])
def test_images_that_change_are_refused(making, options, images, tmp_path):
    with pytest.raises(ValueError, match=r"crop must be centre and flip 0"):
        precompute(making.laion(images, **options), making.encoder(), tmp_path / "latents")
    assert not (tmp_path / "latents").exists()


def test_a_latent_that_is_not_finite_names_its_sample(making, images, tmp_path):
    net = making.vae()
    with torch.no_grad():
        net.quant_conv.bias[:4] = 1e6
    with pytest.raises(ValueError, match=r"00000.tar, sample \d+: its mean is NaN or infinite as stored"):
        precompute(making.laion(images), making.encoder(net, dtype="fp16"), tmp_path / "latents")
    assert not list((tmp_path / "latents").glob("*.tar"))


def test_text_encoders_that_learn_have_no_embeddings_to_keep(making):
    trained = TinyTextEncoder(width=8, layers=1, num_heads=2, max_length=8, token_dim=4)
    with pytest.raises(ValueError, match=r"captions are kept"):
        making.encoder(text_encoder=trained)


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
