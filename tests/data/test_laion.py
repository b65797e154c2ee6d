"""Shards in training: exactly once, the same for any ranks and workers; bad samples are replaced."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.decode import Decoded, crop_of, cropped, decode
from ldm.data.laion import LaionData
from ldm.data.shards.files import ShardFiles, expand
from ldm.data.shards.filters import Filters
from ldm.data.shards.index import Shard, ShardIndex


def jpeg(i, size=(40, 32), kind="JPEG"):
    pixels = np.random.default_rng(i).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def write(path, first, count, broken=(), without=()):
    with tarfile.open(path, "w") as tar:
        for i in range(first, first + count):
            image = b"no image" if i in broken else jpeg(i)
            said = {"width": 40, "height": 32, "aesthetic": i / 10, "title": f"title {i}"}
            parts = {"jpg": image, "txt": f"photo {i}".encode(), "json": json.dumps(said).encode()}
            for extension, data in parts.items():
                if extension == "txt" and i in without:
                    continue
                info = tarfile.TarInfo(f"{i:08d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path):
    for shard, (first, count) in enumerate(((0, 11), (11, 7), (18, 12))):
        write(tmp_path / f"{shard:05d}.tar", first, count)
    return tmp_path


def data(folder, **options):
    values = {"batch_size": 8, "image_size": 16, "lanes": 2, "window": 5, "seed": 3}
    return LaionData(shards=str(folder / "{00000..00002}.tar"), **(values | options))


def numbers(batch):
    return [int(caption.split()[1]) for caption in batch["caption"]]


def test_every_sample_comes_once_an_epoch_and_none_is_dropped(folder):
    stream = data(folder)
    seen = [n for step in range(15) for n in numbers(stream.batch(step))]  # 120 places, four epochs of 30
    for epoch in range(4):
        assert sorted(seen[30 * epoch : 30 * epoch + 30]) == list(range(30))
    assert seen[:30] != seen[30:60]
    assert stream.steps_per_epoch == 3
    visits = torch.cat([stream.batch(step)["visit"] for step in range(15)])
    assert visits.tolist() == [e for e in range(4) for _ in range(30)]


@pytest.mark.parametrize("world", [2, 4, 8])
def test_global_batches_do_not_depend_on_the_ranks(world, folder):
    whole, parts = data(folder, crop="random", flip=0.5), data(folder, crop="random", flip=0.5)
    for step in (0, 3, 7):
        pieces = [parts.batch(step, rank, world) for rank in range(world)]
        expected = whole.batch(step)
        assert [c for piece in pieces for c in piece["caption"]] == expected["caption"]
        for name in ("image", "key"):
            assert torch.equal(torch.cat([piece[name] for piece in pieces]), expected[name])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_loader_gives_the_batches_of_any_start(workers, folder):
    stream = data(folder, num_workers=workers)
    stream.resume(4)
    loader = iter(stream.train_dataloader())
    for step in range(4, 9):
        batch, expected = next(loader), data(folder).batch(step)
        assert batch["caption"] == expected["caption"]
        assert torch.equal(batch["image"], expected["image"])
        assert torch.equal(batch["key"], expected["key"])


def test_images_are_what_the_shards_hold(folder):
    batch = data(folder).batch(0)
    assert batch["image"].shape == (8, 3, 16, 16)
    assert batch["image"].dtype == torch.float32
    for image, number in zip(batch["image"], numbers(batch), strict=True):
        whole = Image.open(io.BytesIO(jpeg(number))).convert("RGB").crop((4, 0, 36, 32))
        expected = np.array(whole.resize((16, 16), Image.Resampling.BICUBIC))
        difference = image - torch.from_numpy(expected).movedim(-1, 0) / 127.5 + 1
        assert difference.abs().mean() < 0.03  # the DCT's scaling is not bicubic


@pytest.mark.parametrize("cause", ["damaged image", "no caption"])
def test_a_bad_sample_is_replaced_and_no_other_place_changes(cause, folder, tmp_path):
    good = [data(folder).batch(step) for step in range(8)]
    for index in folder.glob(".ldm-index-*"):
        for file in index.iterdir():
            file.unlink()
        index.rmdir()
    bad = {4, 20}
    marked = {"broken": bad} if cause == "damaged image" else {"without": bad}
    for shard, (first, count) in enumerate(((0, 11), (11, 7), (18, 12))):
        write(folder / f"{shard:05d}.tar", first, count, **marked)
    log = tmp_path / "logs" / "bad_samples.jsonl"
    stream = data(folder, bad_samples=str(log))
    for step, expected in enumerate(good):
        for mine, theirs in zip(numbers(stream.batch(step)), numbers(expected), strict=True):
            assert mine == (theirs + 1 if theirs in bad else theirs)
    again = data(folder, bad_samples=str(log))  # as after a stop: each sample is written down once
    again.batch(0), again.batch(3)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["cause"] for line in lines} == {cause} == set(stream.bad)
    assert stream.bad[cause] >= 4
    assert again.bad_samples.by_cause() == {cause: len(lines)} == {cause: 2}
    assert {line["shard"][-9:] for line in lines} == {"00000.tar", "00002.tar"}


def test_too_many_bad_samples_stop_the_run(tmp_path):
    write(tmp_path / "a.tar", 0, 40, broken=range(0, 40, 5))
    stream = LaionData(shards=str(tmp_path / "*.tar"), batch_size=8, image_size=16, max_bad_fraction=0.1)
    says = r"of 200 samples cannot be used: .*'damaged image'.*"
    with pytest.raises(ValueError, match=says):
        all(stream.batch(step) for step in range(100))
    write(tmp_path / "b.tar", 0, 3, broken=range(3))
    alone = LaionData(shards=str(tmp_path / "b.tar"), batch_size=8, image_size=16)
    with pytest.raises(ValueError, match="one after the other"):
        alone.batch(0)


def test_a_fallback_is_taken_where_there_is_no_caption(tmp_path):
    write(tmp_path / "a.tar", 0, 8, without={3})
    stream = LaionData(shards=str(tmp_path / "a.tar"), batch_size=8, image_size=16, fallback="title")
    assert sorted(stream.batch(0)["caption"]) == sorted(
        ["title 3", *(f"photo {i}" for i in range(8) if i != 3)]
    )
    titles = LaionData(shards=str(tmp_path / "a.tar"), batch_size=8, image_size=16, caption="title")
    assert sorted(titles.captions()) == [f"title {i}" for i in range(8)]


def test_filters_decide_from_the_index(folder):
    stream = data(folder, filters=Filters(min_aesthetic=1.0))
    assert len(stream.plan) == 20
    seen = [n for step in range(5) for n in numbers(stream.batch(step))]
    assert sorted(seen[:20]) == list(range(10, 30))
    with pytest.raises(ValueError, match=r"no sample is left .*data.filters"):
        data(folder, filters=Filters(min_size=33)).batch(0)


def test_each_filter_is_its_bound_and_unknown_is_as_it_says():
    from ldm.data.shards.index import SAMPLE

    table = np.zeros(4, dtype=SAMPLE)
    table["width"], table["height"] = [100, 300, 50, np.nan], [100, 100, 200, np.nan]
    table["watermark"], table["unsafe"] = [0.1, 0.9, 0.5, np.nan], [0.9, 0.1, 0.1, np.nan]
    table["similarity"], table["language"] = [0.2, 0.3, 0.4, np.nan], [b"en", b"de", b"en", b""]
    table["nsfw"] = [b"UNLIKELY", b"NSFW", b"UNLIKELY", b""]
    for options, kept in (
        ({"min_size": 100}, [1, 1, 0, 1]),
        ({"max_aspect": 2.0}, [1, 0, 0, 1]),
        ({"max_watermark": 0.5}, [1, 0, 1, 1]),
        ({"max_unsafe": 0.5}, [0, 1, 1, 1]),
        ({"min_similarity": 0.3}, [0, 1, 1, 1]),
        ({"language": ["en"]}, [1, 0, 1, 1]),
        ({"nsfw": ["UNLIKELY"]}, [1, 0, 1, 1]),
        ({"language": ["en"], "keep_unknown": False}, [1, 0, 1, 0]),
        ({"min_size": 1, "keep_unknown": False}, [1, 1, 1, 0]),
    ):
        assert Filters(**options)(table).tolist() == [bool(k) for k in kept], options


def test_the_index_is_kept_beside_the_shards_and_notices_changes(folder):
    data(folder).batch(0)
    (index,) = folder.glob(".ldm-index-*")
    assert len(ShardIndex.load(index).samples) == 30
    write(folder / "00001.tar", 11, 3)
    with pytest.raises(ValueError, match=r"when it was indexed: index it again"):
        all(data(folder).batch(step) for step in range(4))
    with pytest.raises(ValueError, match=r"of 3 other shards, not these 1"):
        LaionData(shards=str(folder / "00000.tar"), batch_size=2, index=str(index)).batch(0)


def test_remote_shards_are_copied_once_and_the_oldest_make_room(folder, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in sorted(folder.glob("*.tar")):
        memory.pipe(f"/laion/{path.name}", path.read_bytes())
    options = {"batch_size": 8, "image_size": 16, "lanes": 2, "window": 5, "seed": 3}
    cache = tmp_path / "cache"
    remote = LaionData(shards="memory://laion/{00000..00002}.tar", cache=str(cache), **options)
    for step in range(4):
        assert remote.batch(step)["caption"] == data(folder).batch(step)["caption"]
        assert torch.equal(remote.batch(step)["key"], data(folder).batch(step)["key"])
    assert len(list(cache.glob("*.tar"))) == 3
    sizes = [p.stat().st_size for p in cache.glob("*.tar")]
    small = ShardFiles(remote.index.shards, tmp_path / "small", cache_bytes=2 * max(sizes))
    for shard in (0, 1, 2, 0):
        small.read(shard, 0, 512)
        small.close()
    assert sum(p.stat().st_size for p in (tmp_path / "small").glob("*")) <= 2 * max(sizes)
    with pytest.raises(ValueError, match=r"cache must be a folder"):
        ShardFiles([Shard(path="memory://laion/00000.tar", size=1, sha256="", samples=1)]).read(0, 0, 1)


def test_patterns_are_expanded(folder):
    assert expand(str(folder / "*.tar")) == sorted(str(p) for p in folder.glob("*.tar"))
    assert expand(["s3://b/{00..02}.tar", "x.tar"]) == [
        "s3://b/00.tar",
        "s3://b/01.tar",
        "s3://b/02.tar",
        "x.tar",
    ]
    with pytest.raises(FileNotFoundError, match=r"no tar shards at .*"):
        LaionData(shards=str(folder / "none*.tar"), batch_size=2).batch(0)


@pytest.mark.parametrize(
    ("bytes_", "cause"),
    [
        (jpeg(0)[:200], "damaged image"),
        (b"", "damaged image"),
        (jpeg(0, (300, 300)), "too many pixels"),
        (jpeg(0, (1, 50)), "absurd size"),
        (jpeg(0, kind="PNG")[:-60], "damaged image"),
    ],
)
def test_causes_are_named(bytes_, cause):
    with pytest.raises(Exception, match=cause):
        decode(bytes_, (16, 16), 50_000)


def test_crops_are_of_the_smaller_side():
    ramp = Image.fromarray(np.tile(np.arange(90, dtype=np.uint8)[None, :, None], (30, 1, 3)))
    decoded = Decoded(image=ramp, size=(30, 90))
    for share, middle in ((0.0, 14.5), (0.5, 44.5), (1.0, 74.5)):
        crop = cropped(decoded, crop_of((30, 90), (10, 10), (0.5, share)), (10, 10))
        assert crop.shape == (10, 10, 3)
        assert crop.mean() == pytest.approx(middle, abs=1)


def test_options_out_of_range_are_refused():
    for options, key in (
        ({"crop": "left"}, "crop"),
        ({"flip": 2.0}, "flip"),
        ({"max_bad_fraction": -1.0}, "max_bad"),
    ):
        with pytest.raises(ValueError, match=rf"data\.{key}"):
            LaionData(shards="a.tar", batch_size=2, **options)


def shapes(path, sizes):
    """A shard of PNGs of these (height, width), each of one colour gradient, captioned with its number."""
    with tarfile.open(path, "w") as tar:
        for i, (height, width) in enumerate(sizes):
            pixels = np.random.default_rng(i).integers(0, 255, (height, width, 3), dtype=np.uint8)
            image = io.BytesIO()
            Image.fromarray(pixels).save(image, "PNG")
            for extension, data in (("png", image.getvalue()), ("txt", f"photo {i}".encode())):
                info = tarfile.TarInfo(f"{i:08d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_batches_say_the_stored_size_and_the_crop_that_was_taken(flip, tmp_path):
    sizes = [(32, 64), (64, 32), (32, 32), (48, 32)] * 3
    shapes(tmp_path / "a.tar", sizes)
    stream = LaionData(
        shards=str(tmp_path / "a.tar"), batch_size=4, image_size=16, crop="random", flip=flip, seed=5
    )
    lefts = set()
    for step in range(6):
        batch = stream.batch(step)
        assert batch["original_size"].dtype == batch["crop"].dtype == torch.int64
        for i, number in enumerate(numbers(batch)):
            height, width = sizes[number]
            assert batch["original_size"][i].tolist() == [height, width]
            pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
            image = Image.fromarray(pixels[:, ::-1] if flip else pixels)
            scale = 16 / min(height, width)
            resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
            top, left = batch["crop"][i].tolist()
            expected = np.asarray(resized)[top : top + 16, left : left + 16]
            taken = ((batch["image"][i] + 1) * 127.5).round().int().movedim(0, -1).numpy()
            assert np.abs(taken - expected).max() <= 3
            lefts.add(left)
    assert len(lefts) > 3


def test_a_global_batch_is_of_one_bucket_on_any_ranks(tmp_path):
    sizes = [(32, 64), (64, 32), (40, 40), (36, 40), (20, 60)] * 6
    shapes(tmp_path / "a.tar", sizes)

    def made():
        return LaionData(
            shards=str(tmp_path / "a.tar"),
            batch_size=4,
            buckets=[[16, 32], [24, 24], [32, 16]],
            crop="random",
        )

    whole, ranks, seen = made(), [made(), made()], []
    for step in range(30):
        batch = whole.batch(step)
        parts = [data.batch(step, rank, 2) for rank, data in enumerate(ranks)]
        for name in ("image", "key", "visit", "original_size", "crop"):
            assert torch.equal(torch.cat([part[name] for part in parts]), batch[name])
        expected = {"wide": (16, 32), "square": (24, 24), "high": (32, 16)}
        aspects = [sizes[n][0] / sizes[n][1] for n in numbers(batch)]
        kinds = {"wide" if a < 0.7 else "high" if a > 1.4 else "square" for a in aspects}
        (kind,) = kinds
        assert batch["image"].shape == (4, 3, *expected[kind])
        seen += numbers(batch)
    assert {seen.count(i) for i in range(30)} == {4}  # 30 samples, 30 steps of 4
    assert whole.training_images(3).shape == (3, 3, 256, 256)


def test_a_bad_sample_is_replaced_by_one_of_its_bucket(tmp_path):
    shapes(tmp_path / "a.tar", [(32, 64), (64, 32)] * 8)
    data = bytearray((tmp_path / "a.tar").read_bytes())
    stream = LaionData(shards=str(tmp_path / "a.tar"), batch_size=4, buckets=[[16, 32], [32, 16]])
    row = stream.index.samples[4]  # a wide one
    start = int(row["image_offset"])
    data[start + 60 : start + int(row["image_size"])] = bytes(int(row["image_size"]) - 60)
    (tmp_path / "a.tar").write_bytes(data)
    seen = []
    for step in range(32):
        batch = stream.batch(step)
        high = batch["image"].shape[2] == 32
        assert all(n % 2 == high for n in numbers(batch))
        seen += numbers(batch)
    assert 4 not in seen
    assert seen.count(6) == 2 * seen.count(2)
    assert stream.bad["damaged image"] == seen.count(2)


def test_the_buckets_are_told_once_before_training(tmp_path, caplog):
    shapes(tmp_path / "a.tar", [(32, 64), (64, 32)] * 3)
    stream = LaionData(shards=str(tmp_path / "a.tar"), batch_size=2, buckets=[[16, 32], [32, 16]])
    with caplog.at_level("INFO"):
        stream.train_dataloader()
        stream.batch(0)
    assert caplog.text.count("16 x 32") == 1
    assert caplog.text.count("6 of 6 samples are used") == 1


def test_a_step_far_away_is_entered_in_no_time(folder):
    stream, other = (data(folder, buckets=[[16, 16], [16, 24]]) for _ in range(2))
    for step in (10**9, 0, 10**9):
        batch, again = stream.batch(step), other.batch(step)
        assert batch["caption"] == again["caption"]
        assert torch.equal(batch["image"], again["image"])
        assert torch.equal(batch["visit"], again["visit"])
