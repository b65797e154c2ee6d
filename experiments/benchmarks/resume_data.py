"""How long does the data of a run take to go on at a step, and how long does webdataset take to skip there?

An index of 10^6 samples in 200 shards; each shard is the same file of 5,000 small samples, so that all can
be opened. A row is a position: images already seen. The index is mapped and filtered once (first line); from
then on a position costs the search for its samples, the opening of a shard and the reading of one sample.
The peer skips the samples before it, as resuming a stream of tar shards means; it is measured over one shard
and, past that, given as so much for each sample.

Run: python experiments/benchmarks/resume_data.py [--rounds 7]
"""

import argparse
import dataclasses
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image

from ldm.data.laion import LaionData
from ldm.data.shards.filters import Filters
from ldm.data.shards.index import ShardIndex, index_shard

SHARDS, EACH, BATCH = 200, 5000, 256


def write_shard(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        image = io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(image, "JPEG")
        for i in range(EACH):
            for extension, data in (("jpg", image.getvalue()), ("txt", b"a red square"), ("json", b"{}")):
                info = tarfile.TarInfo(f"{i:08d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_index(shard: Path, folder: Path) -> list[str]:
    """An index of many shards, all of which are links to one. Returns: their paths."""
    paths, shards, tables = [], [], []
    about, table = index_shard(str(shard), 0)
    for number in range(SHARDS):
        path = shard.with_name(f"{number:05d}.tar")
        path.hardlink_to(shard)
        paths.append(str(path))
        shards.append(dataclasses.replace(about, path=str(path)))
        copy = table.copy()
        copy["shard"] = number
        copy["key"] += number * EACH
        tables.append(copy)
    ShardIndex(tuple(shards), np.concatenate(tables)).save(folder)
    return paths


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shard(folder / "one.tar")
        paths = write_index(folder / "one.tar", folder / "index")

        def opened() -> LaionData:
            options = {"batch_size": BATCH, "image_size": 64, "index": str(folder / "index")}
            data = LaionData(shards=paths, filters=Filters(min_aesthetic=5.0), **options)
            assert len(data.plan) == SHARDS * EACH
            return data

        starts = statistics.median(seconds(opened) for _ in range(rounds))
        print(
            f"index of {SHARDS * EACH:,} samples opened, filtered and laid out: {1e3 * starts:.0f} ms, once"
        )
        stream = webdataset.WebDataset(str(folder / "one.tar"), shardshuffle=False, empty_check=False)
        skipped = statistics.median(seconds(lambda: list(islice(iter(stream), EACH))) for _ in range(rounds))
        print(f"{'images seen':>15} {'ldm, ms':>10} {'webdataset skips, s':>20} {'ratio':>10}")
        for seen in (0, EACH, 10**6, 10**8):
            ours = []
            for turn in range(rounds):
                data, step = opened(), seen // BATCH + turn

                def first(data: LaionData = data, step: int = step) -> None:
                    _, places, _ = data.plan.batch(step)
                    data.reader.image(int(data.kept[places[0]]), (64, 64))

                ours.append(seconds(first))
            mine, theirs = statistics.median(ours), skipped * seen / EACH
            print(f"{seen:15,} {1e3 * mine:10.1f} {theirs:20,.1f} {theirs / mine:10,.0f}")


if __name__ == "__main__":
    main()
