"""Actions of ldm-data: show a data set, index shards, write them, measure the loader."""

import itertools
import os
import shlex
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ldm.cli.precompute import precompute
from ldm.utils.construct import construct
from ldm.utils.errors import UserError

Config = dict[str, Any]


def show(config: Config) -> None:
    """Prints what the data set holds and draws its first samples."""
    path = Path(config["output"] or "outputs/data.png")
    if path.exists() and not config["overwrite"]:
        raise UserError(f"output: {path} exists; choose another output or overwrite=true")
    import torch

    from ldm.data.speed import images_per_second
    from ldm.utils.image_io import make_grid, save_png, to_uint8

    data, samples = construct(config["data"], "data"), config["samples"]
    if hasattr(data, "verify"):
        raise UserError("data: latents hold no images to show; ldm-data bench data=latents measures them")
    print(f"{len(data.training_keys())} images, {data.steps_per_epoch} steps an epoch of {data.batch_size}")
    print(f"{images_per_second(data, config['seconds']):,.0f} images/s from the loader")
    count = -(-samples // data.batch_size)
    batches = list(itertools.islice(iter(data.train_dataloader()), count))
    captions = [caption for batch in batches for caption in batch["caption"]][:samples]
    images = torch.cat([batch["image"] for batch in batches])[:samples]
    for caption in captions[:8]:
        print(f"  {caption}")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(make_grid(to_uint8(images), columns=8), path, {"captions": "\n".join(captions)})
    print(path)


def index(config: Config) -> None:
    """Makes the index of data=laion and says what the shards hold."""
    from ldm.data.shards.datamodule import ShardData

    data, start = construct(config["data"], "data"), time.perf_counter()
    if not isinstance(data, ShardData):
        raise UserError("data: only tar shards have an index (data=laion data.shards=...)")
    found, used = data.index, len(data.kept)
    size = sum(shard.size for shard in found.shards) / 1e9
    seconds = time.perf_counter() - start
    print(f"{len(found.samples):,} samples in {len(found.shards)} shards, {size:.2f} GB, {seconds:.1f} s")
    print(f"{used:,} of them pass the filters")
    for shard in found.shards:
        if shard.damage:
            print(f"{shard.path} {shard.damage}; {shard.samples} samples are used")


def bench(config: Config) -> None:
    """Measures the loader for several numbers of workers, and where the time of one goes."""
    from ldm.data.laion import LaionData
    from ldm.data.speed import images_per_second, recommended_workers

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    data, found = construct(config["data"], "data"), {}
    for workers in sorted({0, 1, 2, cores}):
        data.num_workers = workers
        found[workers] = images_per_second(data, config["seconds"])
        print(f"num_workers={workers}: {found[workers]:,.0f} images/s")
    best = max(found, key=lambda workers: found[workers])
    print(f"best: data.num_workers={best} ({cores} cores)")
    print(f"recommended: data.num_workers={recommended_workers(found)}, the smallest within 5% of the best")
    if isinstance(data, LaionData):
        spent = data.profile(min(len(data.kept), 500))
        total = sum(spent.values())
        print(", ".join(f"{name} {seconds / total:.0%}" for name, seconds in spent.items()))
        print(f"one process is limited by: {max(spent, key=lambda name: spent[name])}")


def write(config: Config) -> None:
    """Writes the shards of a data set and their index."""
    from ldm.data.shards.stored import stored_samples
    from ldm.data.shards.writer import write_shards

    if config["output"] is None:
        raise UserError("output: needs a folder for the shards (output=FOLDER)")
    data, folder = construct(config["data"], "data"), Path(config["output"])
    _print_written(write_shards(stored_samples(data), folder, config["per_shard"]), folder)


def hugging_face(config: Config) -> None:
    """Writes the shards of a Hugging Face dataset and says what was left out."""
    from ldm.data.hugging_face import open_dataset, samples_of
    from ldm.data.shards.writer import write_shards

    for key in ("dataset", "output"):
        if config[key] is None:
            raise UserError(f"{key}: needs a value ({key}=...)")
    folder, skipped = Path(config["output"]), Counter[str]()
    dataset = open_dataset(config["dataset"], config["split"])
    samples = samples_of(dataset, config["image_column"], config["caption_column"], skipped)
    try:
        count = write_shards(samples, folder, config["per_shard"])
    finally:
        for cause, number in skipped.items():
            print(f"{number:,} left out: {cause}")
    _print_written(count, folder)


def _print_written(count: int, folder: Path) -> None:
    print(f"{count:,} samples in {folder}")
    print(f"train on them: data=laion {shlex.quote(f'data.shards={folder}/*.tar')}")


TASKS = {
    "show": show,
    "index": index,
    "bench": bench,
    "precompute": precompute,
    "cifar10": write,
    "imagefolder": write,
    "hf": hugging_face,
}
