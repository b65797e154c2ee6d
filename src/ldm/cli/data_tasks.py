"""Actions of ldm-data besides showing a data set: index shards, write them, measure the loader."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ldm.cli.config import build
from ldm.cli.precompute import precompute
from ldm.utils.errors import UserError


def images_per_second(data: Any, seconds: float) -> float:
    """Speed of a loader, measured for about `seconds` after its first batch."""
    loader = iter(data.train_dataloader())
    next(loader)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        images += len(next(loader)["key"])
    return images / (time.perf_counter() - start)


def index(cfg: DictConfig) -> None:
    """Makes the index of data=laion and says what the shards hold."""
    from ldm.data.shards.datamodule import ShardData

    data, start = build(cfg.data), time.perf_counter()
    if not isinstance(data, ShardData):
        raise UserError("data: only tar shards have an index (data=laion data.shards=...)")
    found = data.index
    size = sum(shard.size for shard in found.shards) / 1e9
    seconds = time.perf_counter() - start
    print(f"{len(found.samples):,} samples in {len(found.shards)} shards, {size:.2f} GB, {seconds:.1f} s")
    print(f"{len(data.kept):,} of them pass the filters")
    for shard in found.shards:
        if shard.damage:
            print(f"{shard.path}: {shard.damage}; {shard.samples} samples before it")


def recommended(speeds: Mapping[int, float]) -> int:
    """The smallest number of workers whose speed is within 5% of the best.

    Args:
        speeds: number of workers -> images a second.
    """
    best = max(speeds.values())
    return min(workers for workers, speed in speeds.items() if speed >= 0.95 * best)


def bench(cfg: DictConfig) -> None:
    """Measures the loader for several numbers of workers, and where the time of one goes."""
    from ldm.data.laion import LaionData

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    data, found = build(cfg.data), {}
    for workers in sorted({0, 1, 2, cores}):
        data.num_workers = workers
        found[workers] = images_per_second(data, cfg.seconds)
        print(f"num_workers={workers}: {found[workers]:,.0f} images/s")
    best = max(found, key=lambda workers: found[workers])
    print(f"best: data.num_workers={best} ({cores} cores)")
    print(f"recommended: data.num_workers={recommended(found)}, the smallest within 5% of the best")
    if isinstance(data, LaionData):
        spent = data.profile(min(len(data.kept), 500))
        total = sum(spent.values())
        print(", ".join(f"{name} {seconds / total:.0%}" for name, seconds in spent.items()))
        print(f"one process is limited by: {max(spent, key=lambda name: spent[name])}")


def write(cfg: DictConfig) -> None:
    """Writes the shards of a data set and their index."""
    from ldm.data.shards.writer import write_shards

    if cfg.output is None:
        raise UserError("output: needs a folder for the shards (output=FOLDER)")
    folder = Path(cfg.output)
    _say_written(write_shards(_samples(build(cfg.data)), folder, cfg.per_shard), folder)


def hugging_face(cfg: DictConfig) -> None:
    """Writes the shards of a Hugging Face dataset and says what was left out."""
    from ldm.data.hugging_face import open_dataset, samples_of
    from ldm.data.shards.writer import write_shards

    for key in ("dataset", "output"):
        if cfg[key] is None:
            raise UserError(f"{key}: needs a value ({key}=...)")
    folder, skipped = Path(cfg.output), Counter[str]()
    dataset = open_dataset(cfg.dataset, cfg.split)
    samples = samples_of(dataset, cfg.image_column, cfg.caption_column, skipped)
    try:
        count = write_shards(samples, folder, cfg.per_shard)
    finally:
        for cause, number in skipped.items():
            print(f"{number:,} left out: {cause}")
    _say_written(count, folder)


def _say_written(count: int, folder: Path) -> None:
    print(f"{count:,} samples in {folder}")
    print(f"train on them: data=laion data.shards='{folder}/*.tar'")


def _samples(data: Any) -> Iterator[Any]:
    """The samples of a data set in memory, or the files of a folder as they are."""
    from PIL import Image

    from ldm.data.imagefolder import ImageFolderData
    from ldm.data.shards.writer import encoded, of_file

    if isinstance(data, ImageFolderData):
        for path in data.paths():
            yield of_file(path, data.caption(path))
        return
    images, captions = data.read()
    for pixels, caption in zip(images, captions, strict=True):
        yield encoded(Image.fromarray(pixels.movedim(0, -1).numpy()), caption)


TASKS = {
    "index": index,
    "bench": bench,
    "precompute": precompute,
    "cifar10": write,
    "imagefolder": write,
    "hf": hugging_face,
}
