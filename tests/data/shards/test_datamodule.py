"""Shards in training: exactly once, the same for any ranks and workers; bad samples are replaced."""

import json

import pytest
import torch

from ldm.data.laion import LaionData
from ldm.data.shards.filters import Filters
from ldm.data.shards.index import ShardIndex


def test_every_sample_comes_once_an_epoch_and_none_is_dropped(making, folder):
    stream = making.laion(folder)
    seen = [
        n for step in range(15) for n in making.numbers(stream.batch(step))
    ]  # 120 places, four epochs of 30
    for epoch in range(4):
        assert sorted(seen[30 * epoch : 30 * epoch + 30]) == list(range(30))
    assert seen[:30] != seen[30:60]
    assert stream.steps_per_epoch == 3
    visits = torch.cat([stream.batch(step)["visit"] for step in range(15)])
    assert visits.tolist() == [e for e in range(4) for _ in range(30)]


@pytest.mark.parametrize("world", [2, 4, 8])
def test_global_batches_do_not_depend_on_the_ranks(making, world, folder):
    whole, parts = (
        making.laion(folder, crop="random", flip=0.5),
        making.laion(folder, crop="random", flip=0.5),
    )
    for step in (0, 3, 7):
        pieces = [parts.batch(step, rank, world) for rank in range(world)]
        expected = whole.batch(step)
        assert [c for piece in pieces for c in piece["caption"]] == expected["caption"]
        for name in ("image", "key"):
            assert torch.equal(torch.cat([piece[name] for piece in pieces]), expected[name])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_loader_gives_the_batches_of_any_start(making, workers, folder):
    stream = making.laion(folder, num_workers=workers)
    stream.resume(4)
    loader = iter(stream.train_dataloader())
    for step in range(4, 9):
        batch, expected = next(loader), making.laion(folder).batch(step)
        assert batch["caption"] == expected["caption"]
        assert torch.equal(batch["image"], expected["image"])
        assert torch.equal(batch["key"], expected["key"])


@pytest.mark.parametrize("cause", ["damaged image", "no caption"])
def test_a_bad_sample_is_replaced_and_no_other_place_changes(making, cause, folder, tmp_path):
    good = [making.laion(folder).batch(step) for step in range(8)]
    for index in folder.glob(".ldm-index-*"):
        for file in index.iterdir():
            file.unlink()
        index.rmdir()
    bad = {4, 20}
    marked = {"broken": bad} if cause == "damaged image" else {"without": bad}
    for shard, (first, count) in enumerate(((0, 11), (11, 7), (18, 12))):
        making.write(folder / f"{shard:05d}.tar", first, count, **marked)
    log = tmp_path / "logs" / "bad_samples.jsonl"
    stream = making.laion(folder, bad_samples=str(log))
    for step, expected in enumerate(good):
        for mine, theirs in zip(making.numbers(stream.batch(step)), making.numbers(expected), strict=True):
            assert mine == (theirs + 1 if theirs in bad else theirs)
    again = making.laion(folder, bad_samples=str(log))  # as after a stop: each sample is written down once
    again.batch(0), again.batch(3)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["cause"] for line in lines} == {cause} == set(stream.bad)
    assert stream.bad[cause] >= 4
    assert again.bad_samples.by_cause() == {cause: len(lines)} == {cause: 2}
    assert {line["shard"][-9:] for line in lines} == {"00000.tar", "00002.tar"}


def test_too_many_bad_samples_stop_the_run(making, tmp_path):
    making.write(tmp_path / "a.tar", 0, 40, broken=range(0, 40, 5))
    stream = LaionData(shards=str(tmp_path / "*.tar"), batch_size=8, image_size=16, max_bad_fraction=0.1)
    says = r"of 20\d samples cannot be used, .*'damaged image'"
    with pytest.raises(ValueError, match=says):
        all(stream.batch(step) for step in range(100))
    making.write(tmp_path / "b.tar", 0, 3, broken=range(3))
    alone = LaionData(shards=str(tmp_path / "b.tar"), batch_size=8, image_size=16)
    with pytest.raises(ValueError, match="one after the other"):
        alone.batch(0)


def test_filters_decide_from_the_index(making, folder):
    stream = making.laion(folder, filters=Filters(min_aesthetic=1.0))
    assert len(stream.plan) == 20
    seen = [n for step in range(5) for n in making.numbers(stream.batch(step))]
    assert sorted(seen[:20]) == list(range(10, 30))
    with pytest.raises(ValueError, match="no sample is left to train on"):
        making.laion(folder, filters=Filters(min_size=33)).batch(0)


def test_the_index_is_kept_beside_the_shards_and_notices_changes(making, folder):
    making.laion(folder).batch(0)
    (index,) = folder.glob(".ldm-index-*")
    assert len(ShardIndex.load(index).samples) == 30
    making.write(folder / "00001.tar", 11, 3)
    stale = making.laion(folder)
    assert stale.reader is not None
    again = making.laion(folder)
    assert sorted(making.numbers(again.batch(0)) + making.numbers(again.batch(1)))[-1] <= 29
    assert len(again.index.samples) == 26
    with pytest.raises(ValueError, match=r"of 3 other shards, not these 1"):
        LaionData(shards=str(folder / "00000.tar"), batch_size=2, index=str(index)).batch(0)


def test_a_global_batch_is_of_one_bucket_on_any_ranks(making, tmp_path):
    sizes = [(32, 64), (64, 32), (40, 40), (36, 40), (20, 60)] * 6
    making.write(tmp_path / "a.tar", 0, len(sizes), sizes=sizes)

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
        aspects = [sizes[n][0] / sizes[n][1] for n in making.numbers(batch)]
        kinds = {"wide" if a < 0.7 else "high" if a > 1.4 else "square" for a in aspects}
        (kind,) = kinds
        assert batch["image"].shape == (4, 3, *expected[kind])
        seen += making.numbers(batch)
    assert {seen.count(i) for i in range(30)} == {4}  # 30 samples, 30 steps of 4
    assert whole.training_images(3).shape == (3, 3, 256, 256)


def test_a_bad_sample_is_replaced_by_one_of_its_bucket(making, tmp_path):
    making.write(tmp_path / "a.tar", 0, 16, sizes=[(32, 64), (64, 32)])
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
        assert all(n % 2 == high for n in making.numbers(batch))
        seen += making.numbers(batch)
    assert 4 not in seen
    assert seen.count(6) == 2 * seen.count(2)
    assert stream.bad["damaged image"] == seen.count(2)


def test_the_buckets_are_told_once_before_training(making, tmp_path, caplog):
    making.write(tmp_path / "a.tar", 0, 6, sizes=[(32, 64), (64, 32)])
    stream = LaionData(shards=str(tmp_path / "a.tar"), batch_size=2, buckets=[[16, 32], [32, 16]])
    with caplog.at_level("INFO"):
        stream.train_dataloader()
        stream.batch(0)
    assert caplog.text.count("16 x 32") == 1
    assert caplog.text.count("6 of 6 samples are used") == 1


def test_a_step_far_away_is_entered_in_no_time(making, folder):
    stream, other = (making.laion(folder, buckets=[[16, 16], [16, 24]]) for _ in range(2))
    for step in (10**9, 0, 10**9):
        batch, again = stream.batch(step), other.batch(step)
        assert batch["caption"] == again["caption"]
        assert torch.equal(batch["image"], again["image"])
        assert torch.equal(batch["visit"], again["visit"])
