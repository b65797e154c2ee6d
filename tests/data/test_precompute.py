"""Latents ahead of time: the samples of the images in the same order, made once, never taken for others."""

import io
import json
import os
import signal
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.encoding import Encoder
from ldm.data.filters import Filters
from ldm.data.laion import LaionData
from ldm.data.latent_sample import pack
from ldm.data.latents import LatentData
from ldm.data.precompute import finish, in_turn, precompute
from ldm.data.shard_index import ShardIndex
from ldm.models.identity import IdentityAutoencoder
from ldm.models.text_encoder import TinyTextEncoder
from ldm.models.vae import AutoencoderKL

BUCKETS = [[16, 32], [24, 24], [32, 16]]


class FrozenText(TinyTextEncoder):
    """Stands for CLIP: it is not trained."""

    trainable = False


def vae(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        values = {"channels": [8, 8], "latent_channels": 4, "layers_per_block": 1, "norm_groups": 4}
        return AutoencoderKL(**(values | options)).eval()


def text(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FrozenText(width=8, layers=1, num_heads=2, max_length=8, token_dim=4).eval()


def encoder(autoencoder=None, text_encoder=None, dtype="fp32", **options):
    net = autoencoder or IdentityAutoencoder()
    return Encoder(
        autoencoder=net, text_encoder=text_encoder, device=torch.device("cpu"), dtype=dtype, **options
    )


def png(i, size):
    pixels = np.random.default_rng(i).integers(0, 255, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write(path, first, count, broken=(), without=(), size=None):
    with tarfile.open(path, "w") as tar:
        for i in range(first, first + count):
            shape = size or [(32, 64), (64, 32), (40, 40)][i % 3]
            image = png(i, shape)
            said = {"width": shape[1], "height": shape[0], "aesthetic": i / 10}
            parts = {"png": image[:-80] if i in broken else image, "txt": f"photo {i}".encode()}
            for extension, data in {**parts, "json": json.dumps(said).encode()}.items():
                if extension == "txt" and i in without:
                    continue
                info = tarfile.TarInfo(f"some/{i:08d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for shard, (first, count) in enumerate(((0, 11), (11, 7), (18, 12))):
        write(folder / f"{shard:05d}.tar", first, count, broken={4, 20}, without={13})
    return folder


ORDER = {"lanes": 2, "window": 5, "seed": 3, "max_bad_fraction": 0.5}


def laion(folder, **options):
    values = {"batch_size": 8, "image_size": 16, **ORDER}
    return LaionData(shards=str(folder / "{00000..00002}.tar"), **(values | options))


def latents(folder, **options):
    return LatentData(folder=str(folder), **({"batch_size": 8, "image_size": 16, **ORDER} | options))


@pytest.mark.parametrize(
    "options",
    [{}, {"buckets": BUCKETS}, {"filters": Filters(min_aesthetic=0.7)}],
    ids=["squares", "buckets", "filters"],
)
def test_batches_are_those_of_the_images(options, images, tmp_path):
    """Order, keys, visits, bad samples and what replaces them, captions, sizes, crops; for three epochs."""
    source, folder = laion(images, **options), tmp_path / "latents"
    precompute(source, encoder(), folder, batch_size=3)
    assert source.bad == {"damaged image": 2 - bool("filters" in options), "no caption": 1}
    found, source = latents(folder, **options), laion(images, **options)
    for step in [*range(12), 10**6]:
        for part, parts in ((0, 1), (1, 2)):
            mine, theirs = found.batch(step, part, parts), source.batch(step, part, parts)
            assert mine["caption"] == theirs["caption"]
            for name in ("key", "visit", "original_size", "crop"):
                assert torch.equal(mine[name], theirs[name]), name
            assert torch.equal(mine["mean"], theirs["image"])
    assert found.bad == source.bad
    assert found.steps_per_epoch == source.steps_per_epoch
    assert torch.equal(found.training_keys(), source.training_keys())
    assert found.captions() == source.captions()
    if "buckets" not in options:
        assert found.validation_samples(9)["caption"] == source.validation_samples(9)["caption"]


def test_further_filters_choose_among_those_encoded(images, tmp_path):
    precompute(laion(images), encoder(), tmp_path / "latents")
    found = latents(tmp_path / "latents", filters=Filters(min_aesthetic=2.0))
    assert torch.equal(found.training_keys(), laion(images, filters=found.filters).training_keys())


def test_the_loader_gives_the_batches_with_any_workers(images, tmp_path):
    precompute(laion(images, num_workers=2), encoder(), tmp_path / "latents")
    for workers in (0, 2):
        found = latents(tmp_path / "latents", num_workers=workers)
        found.resume(2)
        batches = iter(found.train_dataloader())
        for step in (2, 3, 4):
            mine, expected = next(batches), laion(images).batch(step)
            assert torch.equal(mine["mean"], expected["image"])
            assert torch.equal(mine["key"], expected["key"])


@pytest.mark.parametrize(("dtype", "precision"), [("fp32", 0.0), ("fp16", 2**-11), ("bf16", 2**-8)])
def test_what_is_stored_is_what_the_nets_give_to_within_half_a_unit(dtype, precision, images, tmp_path):
    net, words = vae(), text()
    precompute(laion(images), encoder(net, words, dtype), tmp_path / "latents", batch_size=8)
    mine, theirs = latents(tmp_path / "latents").batch(1), laion(images).batch(1)
    with torch.inference_mode():
        posterior, cond = net.encode(theirs["image"]), words.encode(theirs["caption"])
    expected = {"mean": posterior.mean, "std": (0.5 * posterior.logvar).exp()}
    expected |= {"tokens": cond.tokens, "pooled": cond.pooled}
    for name, value in expected.items():
        bound = precision * value.abs() + 2**-25 + 2e-6  # batches of other sizes are summed in another order
        assert bool(((mine[name].float() - value).abs() <= bound).all()), name
    assert torch.allclose(latents(tmp_path / "latents").empty.tokens, words.encode([""]).tokens)


def test_embeddings_are_left_out_where_they_are_not_wanted(images, tmp_path):
    precompute(laion(images), encoder(text_encoder=text()), tmp_path / "both")
    precompute(laion(images), encoder(), tmp_path / "captions")
    assert "tokens" in latents(tmp_path / "both").batch(0)
    assert "tokens" not in latents(tmp_path / "both", embeddings=False).batch(0)
    assert latents(tmp_path / "captions").empty is None
    with pytest.raises(ValueError, match=r"captions only \(data.embeddings\)"):
        latents(tmp_path / "captions", embeddings=True)


@pytest.mark.parametrize(("count", "world"), [(7, 1), (7, 3), (2, 5), (12, 4), (200, 16), (1000, 64)])
@pytest.mark.parametrize("dead", [0, 1, 8])
def test_ranks_share_the_shards_whichever_of_them_live(count, world, dead):
    """In rounds: each living rank makes one that was missing when the round began."""
    living = range(min(dead, world - 1), world)
    orders = {rank: in_turn(count, rank, world) for rank in living}
    assert all(sorted(order) == list(range(count)) for order in orders.values())
    made, rounds = set[int](), 0
    while len(made) < count:
        chosen = [next(i for i in order if i not in made) for order in orders.values()]
        made, rounds = made | set(chosen), rounds + 1
    ideal = -(-count // len(living))
    assert rounds <= ideal + (0 if not dead else 0.2 * ideal + 1)  # a few are made by two at once


def test_what_is_missing_is_made_and_no_more(images, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert precompute(laion(images), encoder(vae()), whole) == 3
    assert precompute(laion(images), encoder(vae()), whole) == 0
    precompute(laion(images), encoder(vae()), parts)
    (parts / "00001.tar").unlink()
    assert finish(parts) is None
    with pytest.raises(ValueError, match=r"1 of 3 shards of latents have not been made.*data.folder"):
        latents(parts).batch(0)
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.tar")}
    assert precompute(laion(images), encoder(vae()), parts, rank=1, world=2) == 1
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in parts.glob("*.tar")}.items()
    for path in whole.glob("*.tar"):
        assert path.read_bytes() == (parts / path.name).read_bytes()
    assert finish(parts) == 30
    (index,) = parts.glob(".ldm-index-*")
    assert len(ShardIndex.load(index).samples) == 30


def forked(work):
    """A process of its own that does something."""
    process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(0)
    return process


def killed_while_writing(images, folder, samples, monkeypatch):
    """The signal that ends a process which is killed when it has packed so many samples."""
    packed = []

    def pack_or_die(*arguments):
        packed.append(arguments)
        if len(packed) > samples:
            os.kill(os.getpid(), signal.SIGKILL)
        return pack(*arguments)

    def work():
        monkeypatch.setattr("ldm.data.precompute.pack", pack_or_die)
        precompute(laion(images), encoder(), folder, batch_size=1)

    return os.WTERMSIG(os.waitpid(forked(work), 0)[1])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_ranks_at_the_same_time_make_what_one_makes(images, tmp_path):
    several, alone = tmp_path / "several", tmp_path / "alone"

    def work(rank):
        precompute(laion(images), encoder(), several, rank=rank, world=4)
        finish(several)

    processes = [forked(partial(work, rank)) for rank in range(4)]
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 4
    precompute(laion(images), encoder(), alone)
    names = {path.name for path in alone.iterdir() if path.is_file()}
    assert {path.name for path in several.iterdir() if path.is_file()} == names
    assert all((alone / name).read_bytes() == (several / name).read_bytes() for name in names)
    assert torch.equal(latents(several).batch(3)["key"], laion(images).batch(3)["key"])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("samples", "whole"), [(0, 0), (13, 1), (29, 2)])
def test_a_killed_process_leaves_whole_shards_and_the_next_goes_on(
    samples, whole, images, tmp_path, monkeypatch
):
    assert killed_while_writing(images, tmp_path / "latents", samples, monkeypatch) == signal.SIGKILL
    folder, undisturbed = tmp_path / "latents", tmp_path / "undisturbed"
    assert sorted(path.name for path in folder.glob("*.tar")) == [f"{i:05d}.tar" for i in range(whole)]
    (left,) = folder.glob(".*.tmp")
    os.utime(left, (0, 0))  # as if it was long ago
    assert precompute(laion(images), encoder(), folder, batch_size=1, rank=2, world=3) == 3 - whole
    assert not list(folder.glob(".*.tmp"))
    precompute(laion(images), encoder(), undisturbed, batch_size=1)
    for path in undisturbed.iterdir():
        if path.is_file():
            assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_too_many_bad_samples_stop_it_with_nothing_half_written(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        write(tmp_path / "images" / f"{i:05d}.tar", 100 * i, 100, broken=range(190, 260), size=(4, 4))
    source = laion(tmp_path / "images", max_bad_fraction=0.1)
    with pytest.raises(ValueError, match=r"samples cannot be used: .*'damaged image'.*max_bad_fraction"):
        precompute(source, encoder(), tmp_path / "latents")
    assert sorted(p.suffix for p in (tmp_path / "latents").iterdir() if p.is_file()) == [
        ".json",
        ".safetensors",
        ".tar",
        ".tar",
    ]


# A cache that is not what a run needs is an error.


@pytest.fixture
def folder(images, tmp_path):
    precompute(laion(images), encoder(vae(), text()), tmp_path / "latents")
    finish(tmp_path / "latents")
    return tmp_path / "latents"


def test_the_nets_they_were_made_by_are_accepted(folder):
    latents(folder).verify(vae(), text())
    scaled = vae(scaling_factor=0.2, shift_factor=[1.0, 2.0, 3.0, 4.0])
    latents(folder).verify(scaled, text())  # the model's business: what is stored comes before


def test_other_nets_are_refused(folder):
    other = vae()
    with torch.no_grad():
        other.encoder.conv_in.weight[0, 0, 0, 0] += 1e-3
    says = r"stale: made by another autoencoder, with weights \w{12}, not \w{12}.*first_stage.checkpoint"
    with pytest.raises(ValueError, match=says):
        latents(folder).verify(other, text())
    with pytest.raises(ValueError, match=r"same weights but is built in another way: its mean"):
        latents(folder).verify(vae(norm_groups=2), text())
    with pytest.raises(ValueError, match=r"stale: made by another text encoder.*data.embeddings"):
        latents(folder).verify(vae(), text(seed=1))
    latents(folder, embeddings=False).verify(vae(), text(seed=1))
    trained = TinyTextEncoder(width=8, layers=1, num_heads=2, max_length=8, token_dim=4)
    with pytest.raises(ValueError, match=r"that of this run is trained.*data.embeddings=false"):
        latents(folder).verify(vae(), trained)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image_size": 24}, r"made with image_size 16, not 24: .*\(data.image_size\)"),
        ({"buckets": BUCKETS}, r"made with buckets None, not \[\[16, 32\], .*\(data.buckets\)"),
    ],
)
def test_other_sizes_are_refused(options, says, folder):
    with pytest.raises(ValueError, match=says):
        latents(folder, **options)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda source, nets: (source, encoder(vae(seed=1), text())), "another autoencoder:"),
        (lambda source, nets: (source, encoder(vae(), text(seed=1))), "another text_encoder:"),
        (lambda source, nets: (source, encoder(vae())), "another text_encoder:"),
        (lambda source, nets: (source, encoder(vae(), text(), "bf16")), "another dtype:"),
        (lambda source, nets: (source, encoder(vae(), text(), precision="bf16")), "another precision:"),
        (lambda source, nets: (laion(source, image_size=24), nets), "another image_size:"),
        (lambda source, nets: (laion(source, buckets=BUCKETS), nets), "another buckets:"),
        (lambda source, nets: (laion(source, fallback="title"), nets), "another fallback:"),
        (lambda source, nets: (laion(source, filters=Filters(min_size=9)), nets), "another filters:"),
    ],
)
def test_going_on_with_another_setting_is_refused(change, says, folder, images):
    source, nets = change(images, encoder(vae(), text()))
    source = laion(images) if isinstance(source, Path) else source
    with pytest.raises(ValueError, match=rf"holds latents made with {says} choose another .*\(output\)"):
        precompute(source, nets, folder)


def test_going_on_with_other_images_is_refused(folder, images):
    write(images / "00001.tar", 11, 5)
    for index in images.glob(".ldm-index-*"):
        for file in index.iterdir():
            file.unlink()
        index.rmdir()
    with pytest.raises(ValueError, match="made with another source:"):
        precompute(laion(images), encoder(vae(), text()), folder)


def test_shards_of_another_cache_in_the_folder_are_refused(folder, images, tmp_path):
    precompute(laion(images), encoder(vae(seed=1), text()), tmp_path / "other")
    (folder / "00001.tar").write_bytes((tmp_path / "other" / "00001.tar").read_bytes())
    with pytest.raises(ValueError, match=r"00001.tar: it was made with other settings than latents.json"):
        all(latents(folder).batch(step) for step in range(4))
    (folder / "latents.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards, but no latents.json.*\(output\)"):
        precompute(laion(images), encoder(vae(seed=1), text()), folder)
    with pytest.raises(FileNotFoundError, match=r"no latents in .*ldm-data precompute \(data.folder\)"):
        latents(folder)


def test_a_changed_latents_json_is_noticed(folder):
    path = folder / "latents.json"
    path.write_text(path.read_text().replace('"image_size": 16', '"image_size": 32'))
    with pytest.raises(ValueError, match=r"latents.json cannot be used: it was changed by hand"):
        latents(folder, image_size=32)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_truncated_shard_is_an_error(indexed, folder):
    path = folder / "00002.tar"
    path.write_bytes(path.read_bytes()[:-9000])
    if not indexed:
        for index in folder.glob(".ldm-index-*"):
            for file in index.iterdir():
                file.unlink()
            index.rmdir()
    says = "when it was indexed" if indexed else r"00002.tar is damaged .*remove it and the index"
    with pytest.raises(ValueError, match=says):
        all(latents(folder).batch(step) for step in range(8))


def test_a_damaged_latent_is_a_bad_sample(folder):
    found = latents(folder)
    row = found.index.samples[6]
    path = folder / "00000.tar"
    data = bytearray(path.read_bytes())
    data[int(row["image_offset"]) + int(row["image_size"]) - 10] ^= 4
    path.write_bytes(data)
    seen = [key for step in range(4) for key in found.batch(step)["key"].tolist()]
    assert int(row["key"]) not in seen
    assert found.bad["damaged latent"] >= 1


def test_shards_of_the_same_name_are_refused(images, tmp_path):
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "00001.tar", 40, 3)
    source = LaionData(shards=[f"{images}/*.tar", f"{tmp_path}/more/*.tar"], batch_size=8, image_size=16)
    with pytest.raises(ValueError, match=r"got 2 of 00001.tar \(data.shards\)"):
        precompute(source, encoder(), tmp_path / "latents")


@pytest.mark.parametrize("options", [{"crop": "random"}, {"flip": 0.5}])
def test_images_that_change_are_refused(options, images, tmp_path):
    with pytest.raises(ValueError, match=r"\(data.crop, data.flip\)"):
        precompute(laion(images, **options), encoder(), tmp_path / "latents")
    assert not (tmp_path / "latents").exists()


def test_a_latent_that_is_not_finite_names_its_sample(images, tmp_path):
    net = vae()
    with torch.no_grad():
        net.quant_conv.bias[:4] = 1e6
    with pytest.raises(ValueError, match=r"00000.tar, sample \d+: its mean is NaN or infinite as stored"):
        precompute(laion(images), encoder(net, dtype="fp16"), tmp_path / "latents")
    assert not list((tmp_path / "latents").glob("*.tar"))


def test_text_encoders_that_learn_have_no_embeddings_to_keep():
    trained = TinyTextEncoder(width=8, layers=1, num_heads=2, max_length=8, token_dim=4)
    with pytest.raises(ValueError, match=r"captions are kept \(text_encoder\)"):
        encoder(text_encoder=trained)


def test_remote_latents_are_read_as_local_ones(folder, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        if path.is_file():
            memory.pipe(f"/latents/{path.name}", path.read_bytes())
    remote = LatentData(
        folder="memory://latents", cache=str(tmp_path / "cache"), batch_size=8, image_size=16, **ORDER
    )
    mine, local = remote.batch(2), latents(folder).batch(2)
    assert all(torch.equal(mine[name], local[name]) for name in ("mean", "std", "tokens", "pooled", "key"))
    remote.verify(vae(), text())
