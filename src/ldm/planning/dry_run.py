"""A dry run: what `ldm-train` would do, found out in seconds, with nothing trained and nothing written."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ldm.checkpoints.loader import HUB_ID
from ldm.checkpoints.store import MANIFEST, NAME, STATE, CheckpointStore, is_sharded, state_of
from ldm.data.laion import LaionData
from ldm.data.shards.datamodule import ShardData
from ldm.data.shards.first_sample import first_sample
from ldm.planning.simulate import AUTOCAST, Setting, simulate
from ldm.planning.stages import Stage, stages_of
from ldm.training.directory import moved
from ldm.training.resume import compared
from ldm.utils.construct import construct
from ldm.utils.device import set_threads
from ldm.utils.errors import UserError
from ldm.utils.size import size


def dry_run(config: Mapping[str, Any], directory: str | Path) -> list[str]:
    """The lines that describe a run: its data, steps, nets, memory and checkpoints.

    The nets are built on the meta device, of data in shards one sample is read, and checkpoints are found by
    their names.

    Args:
        config: of `ldm-train`, plain and resolved.
        directory: of the run.

    Raises: UserError, or whatever the run would raise, for what would stop it.
    """
    set_threads(config["threads"])
    folder = Path(directory)
    check_writable(folder)
    stages = stages_of(config)
    check_files(config)
    lines = [f"{config['name']}: a dry run, nothing is written", f"run directory: {folder}"]
    for stage in stages:
        first = stage.name == "autoencoder"
        key = "first_stage.data" if first else "data"
        data = construct(config["first_stage"]["data"] if first else config["data"], key)
        start = start_of(config["resume"], folder / stage.name if first else folder)
        about = [*about_data(data, stage), *about_steps(config, stage, start), *about_nets(config, stage)]
        about += about_changes(config, folder, stage.name, start)
        lines += ["", f"{stage.name}, {stage.precision}", *(f"  {line}" for line in about)]
    return lines


def check_files(config: Mapping[str, Any]) -> None:
    """Checks that the checkpoints which the run reads exist; ids of the hub are not looked up.

    Raises: UserError for the first that does not.
    """
    for key, path in (
        ("first_stage.checkpoint", config["first_stage"]["checkpoint"]),
        ("init_checkpoint", config["init_checkpoint"]),
        ("weak_checkpoint", config["weak_checkpoint"]),
    ):
        if path is not None and not Path(path).exists() and not HUB_ID.fullmatch(str(path)):
            raise UserError(f"nothing at {path}", key)


def check_writable(folder: Path) -> None:
    """Creates and removes a nameless file in a folder, or where the folder would be created.

    Raises: UserError if that fails.
    """
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise UserError(f"{parent} cannot be written to: {error.strerror}", "hydra.run.dir") from error


def start_of(resume: str, folder: Path) -> int:
    """The step at which a stage would start, by the names of its checkpoints, which are not read.

    Raises: UserError if `resume` does not fit what the folder holds.
    """
    newest = max(CheckpointStore(folder / "checkpoints").steps(), default=0)
    if resume == "auto":
        return newest
    if resume == "never":
        if newest:
            raise UserError(
                f"{folder} has checkpoints and resume=never; choose another run directory", "resume"
            )
        return 0
    path = Path(resume)
    named = path.parent if path.name == STATE else path
    match = NAME.fullmatch(named.resolve().name)
    if match is None or not (named / MANIFEST).is_file():
        raise UserError(f"no checkpoint at {path}", "resume")
    if newest > int(match[1]):
        raise UserError(
            f"{folder} has later checkpoints, to step {newest}; choose another run directory", "resume"
        )
    return int(match[1])


def about_changes(config: Mapping[str, Any], folder: Path, stage: str, start: int) -> list[str]:
    """Changes of the config since the checkpoint that a stage would resume, whose tensors are not read.

    Raises: UserError for a change that the checkpoint does not allow.
    """
    if start == 0:
        return []
    named = Path(config["resume"])
    home = (folder / stage if stage == "autoencoder" else folder) / "checkpoints"
    path = named if config["resume"] != "auto" else CheckpointStore(home).path(start)
    path = state_of(path)
    if not path.is_file() and not is_sharded(path):
        return []
    return list(compared(moved(dict(config), folder.absolute()), folder.absolute(), stage, path, start).notes)


def about_data(data: Any, stage: Stage) -> list[str]:
    """Facts about the data that are known without reading all of it."""
    images = stage.batch_size * stage.max_steps
    if isinstance(data, ShardData):
        paths, folder = data.places()
        lines = [f"{len(paths):,} shards"]
        if isinstance(data, LaionData):
            seen = first_sample(paths[0], data.image_size, data.caption, data.fallback, data.max_pixels)
            lines[0] += (
                f"; the first begins with {seen.name}, {seen.size[0]} x {seen.size[1]}: {seen.caption[:60]!r}"
            )
        if folder is None or not folder.is_dir():
            return [*lines, "no index yet: it is built when the training starts, or by ldm-data index"]
        data.check_usable()
        count = len(data.kept)
    else:
        lines, count = [], len(data.training_keys())
    return [*lines, f"{count:,} images, each {images / max(count, 1):,.2f} times"]


def world_of(trainer: Mapping[str, Any]) -> int:
    """Number of processes by the config of the trainer; by the devices of this machine if it gives none."""
    devices, nodes = trainer["devices"], int(trainer["num_nodes"])
    if isinstance(devices, int) and devices > 0:
        return devices * nodes
    if isinstance(devices, int | str):
        return max(torch.cuda.device_count(), 1) * nodes
    return len(devices) * nodes


def accumulated(config: Mapping[str, Any], stage: Stage) -> int:
    """Batches that are accumulated for a step; the autoencoder's training accumulates none."""
    return 1 if stage.name == "autoencoder" else int(config["trainer"]["accumulate_grad_batches"])


def micro_batch(config: Mapping[str, Any], stage: Stage) -> int:
    """Images of a rank at once.

    Raises: UserError if a step's images cannot be spread evenly.
    """
    world, parts = world_of(config["trainer"]), accumulated(config, stage)
    if stage.batch_size % (world * parts):
        raise UserError(
            f"must be a multiple of {world} ranks x {parts} accumulated batches, got {stage.batch_size}",
            "data.batch_size",
        )
    return stage.batch_size // (world * parts)


def about_steps(config: Mapping[str, Any], stage: Stage, start: int) -> list[str]:
    """Steps, images and how they are spread."""
    world, parts = world_of(config["trainer"]), accumulated(config, stage)
    if start >= stage.max_steps:
        now = f"nothing to train: its checkpoint is of step {start:,}"
    else:
        now = f"would resume at step {start:,}" if start else "would start at step 0"
    return [
        f"{stage.max_steps:,} steps of {stage.batch_size:,} images at {stage.image_size} px: "
        f"{stage.batch_size * stage.max_steps:,} images; {now}",
        f"{world} rank{'s' * (world > 1)}, {parts} x {micro_batch(config, stage)} images a step each",
    ]


def about_nets(config: Mapping[str, Any], stage: Stage) -> list[str]:
    """Parameters, memory and checkpoints."""
    setting = Setting(
        precision=stage.precision if stage.precision in AUTOCAST else "32-true",
        gpu=config["trainer"]["accelerator"] in ("gpu", "cuda") or torch.cuda.is_available(),
        checkpointing=stage.name != "autoencoder" and config["task"]["activation_checkpointing"],
        accumulate=accumulated(config, stage) > 1,
        precomputed=stage.precomputed,
    )
    batch = micro_batch(config, stage)
    seen = simulate(stage.make, setting, stage.image_size, (batch,))
    gradients, activations = seen.peak(batch)
    held = sum(seen.state.values()) + gradients
    saved = sum(seen.state[kind] for kind in ("parameters", "optimizer", "ema"))
    lines = [
        f"{seen.parameters:,} trained parameters, {seen.model_flops / 1e9:,.4g} GFLOPs an image",
        f"memory of a process, unsharded: {size(held)}, and {size(activations)} of activations",
    ]
    callback = (config["callbacks"] or {}).get("checkpoint")
    if callback is not None:
        lines.append(
            f"checkpoints of {size(saved)} every {callback['every_n_steps']:,} steps, the newest "
            f"{callback['keep']} kept"
        )
    return lines
