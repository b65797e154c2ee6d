"""Latents ahead of time: the samples of the images in the same order, made once."""

import os
import signal
from functools import partial

import pytest
import torch

from ldm.data.laion import LaionData
from ldm.data.latents.datamodule import LatentData
from ldm.data.latents.format import pack
from ldm.data.latents.precompute import finish, in_turn, precompute
from ldm.data.shards.filters import Filters
from ldm.data.shards.index import ShardIndex

BUCKETS = [[16, 32], [24, 24], [32, 16]]


@pytest.mark.parametrize(
    "options",
    [{}, {"buckets": BUCKETS}, {"filters": Filters(min_aesthetic=0.7)}],
    ids=["squares", "buckets", "filters"],
)
def test_batches_are_those_of_the_images(making, options, images, tmp_path):
    """Order, keys, visits, bad samples and what replaces them, captions, sizes, crops; for three epochs."""
    source, folder = making.laion(images, **options), tmp_path / "latents"
    precompute(source, making.encoder(), folder, batch_size=3)
    assert source.bad == {"damaged image": 2 - bool("filters" in options), "no caption": 1}
    found, source = making.latents(folder, **options), making.laion(images, **options)
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


def test_equal_names_in_two_folders_are_two_shards_of_different_samples(making, tmp_path):
    for name, first in (("a", 0), ("b", 4)):
        (tmp_path / "images" / name).mkdir(parents=True)
        making.write(tmp_path / "images" / name / "0.tar", first, 4, sizes=[(16, 16)])
        making.write(tmp_path / "images" / name / "1.tar", 0, 4, sizes=[(16, 16)])  # of the same names
    options = {"batch_size": 8, "image_size": 16}
    source = LaionData(shards=f"{tmp_path}/images/*/*.tar", **options)
    assert len(set(source.training_keys().tolist())) == 16
    folder = tmp_path / "latents"
    assert precompute(source, making.encoder(), folder, batch_size=4) == 4
    assert precompute(source, making.encoder(), folder, batch_size=4) == 0
    found = LatentData(folder=str(folder), **options)
    for step in range(3):
        mine, theirs = found.batch(step), source.batch(step)
        assert torch.equal(mine["key"], theirs["key"])
        assert torch.equal(mine["mean"], theirs["image"])


@pytest.mark.parametrize(("dtype", "precision"), [("fp32", 0.0), ("fp16", 2**-11), ("bf16", 2**-8)])
def test_what_is_stored_is_what_the_nets_give_to_within_half_a_unit(
    making, dtype, precision, images, tmp_path
):
    net, words = making.vae(), making.text()
    precompute(making.laion(images), making.encoder(net, words, dtype), tmp_path / "latents", batch_size=8)
    mine, theirs = making.latents(tmp_path / "latents").batch(1), making.laion(images).batch(1)
    with torch.inference_mode():
        posterior, cond = net.encode(theirs["image"]), words.encode(theirs["caption"])
    expected = {"mean": posterior.mean, "std": (0.5 * posterior.logvar).exp()}
    expected |= {"tokens": cond.tokens, "pooled": cond.pooled}
    for name, value in expected.items():
        bound = precision * value.abs() + 2**-25 + 2e-6  # batches of other sizes are summed in another order
        assert bool(((mine[name].float() - value).abs() <= bound).all()), name
    assert torch.allclose(making.latents(tmp_path / "latents").empty.tokens, words.encode([""]).tokens)


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


def test_what_is_missing_is_made_and_no_more(making, images, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert precompute(making.laion(images), making.encoder(making.vae()), whole) == 3
    assert precompute(making.laion(images), making.encoder(making.vae()), whole) == 0
    precompute(making.laion(images), making.encoder(making.vae()), parts)
    (parts / "00001.tar").unlink()
    assert finish(parts) is None
    with pytest.raises(ValueError, match=r"1 of 3 shards of latents have not been made"):
        making.latents(parts).batch(0)
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.tar")}
    assert precompute(making.laion(images), making.encoder(making.vae()), parts, rank=1, world=2) == 1
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


def killed_while_writing(making, images, folder, samples, monkeypatch):
    """The signal that ends a process which is killed when it has packed so many samples."""
    packed = []

    def pack_or_die(*arguments):
        packed.append(arguments)
        if len(packed) > samples:
            os.kill(os.getpid(), signal.SIGKILL)
        return pack(*arguments)

    def work():
        monkeypatch.setattr("ldm.data.latents.precompute.pack", pack_or_die)
        precompute(making.laion(images), making.encoder(), folder, batch_size=1)

    return os.WTERMSIG(os.waitpid(forked(work), 0)[1])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_ranks_at_the_same_time_make_what_one_makes(making, images, tmp_path):
    several, alone = tmp_path / "several", tmp_path / "alone"

    def work(rank):
        precompute(making.laion(images), making.encoder(), several, rank=rank, world=4)
        finish(several)

    processes = [forked(partial(work, rank)) for rank in range(4)]
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 4
    precompute(making.laion(images), making.encoder(), alone)
    names = {path.name for path in alone.iterdir() if path.is_file()}
    assert {path.name for path in several.iterdir() if path.is_file()} == names
    assert all((alone / name).read_bytes() == (several / name).read_bytes() for name in names)
    assert torch.equal(making.latents(several).batch(3)["key"], making.laion(images).batch(3)["key"])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("samples", "whole"), [(0, 0), (13, 1), (29, 2)])
def test_a_killed_process_leaves_whole_shards_and_the_next_goes_on(
    making, samples, whole, images, tmp_path, monkeypatch
):
    assert killed_while_writing(making, images, tmp_path / "latents", samples, monkeypatch) == signal.SIGKILL
    folder, undisturbed = tmp_path / "latents", tmp_path / "undisturbed"
    assert sorted(path.name for path in folder.glob("*.tar")) == [f"{i:05d}.tar" for i in range(whole)]
    (left,) = folder.glob(".*.tmp")
    os.utime(left, (0, 0))  # as if it was long ago
    assert (
        precompute(making.laion(images), making.encoder(), folder, batch_size=1, rank=2, world=3) == 3 - whole
    )
    assert not list(folder.glob(".*.tmp"))
    precompute(making.laion(images), making.encoder(), undisturbed, batch_size=1)
    for path in undisturbed.iterdir():
        if path.is_file():
            assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_too_many_bad_samples_stop_it_with_nothing_half_written(making, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        making.write(
            tmp_path / "images" / f"{i:05d}.tar", 100 * i, 100, broken=range(190, 260), sizes=[(4, 4)]
        )
    source = making.laion(tmp_path / "images", max_bad_fraction=0.1)
    with pytest.raises(
        ValueError, match=r"samples cannot be used, and max_bad_fraction is 0\.1: .*'damaged image'"
    ):
        precompute(source, making.encoder(), tmp_path / "latents")
    assert sorted(p.suffix for p in (tmp_path / "latents").iterdir() if p.is_file()) == [
        ".json",
        ".safetensors",
        ".tar",
        ".tar",
    ]
