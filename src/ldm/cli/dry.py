"""A dry run: what ldm-train would do, said in seconds, with nothing trained and nothing written."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ldm.checkpoints.loader import HUB_ID
from ldm.checkpoints.store import MANIFEST, NAME, STATE, CheckpointStore
from ldm.cli.config import build
from ldm.cli.rehearse import Stage, stages_of
from ldm.data.laion import LaionData
from ldm.data.shards.datamodule import ShardData
from ldm.data.shards.first_sample import first_sample
from ldm.diffusion.timesteps import times_of
from ldm.planning.simulate import AUTOCAST, Setting, SimulatedStep, simulate
from ldm.utils.device import set_threads
from ldm.utils.errors import UserError
from ldm.utils.size import size


def say_what_would_happen(cfg: DictConfig) -> None:
    """Makes the nets on the meta device, looks at data and run directory and prints what would happen.

    Raises: UserError, or what the run would raise, for what would stop it.
    """
    set_threads(cfg.threads)
    folder = Path(cfg.paths.run)
    check_writable(folder)
    stages = stages_of(cfg)
    said = [f"{cfg.name}: a dry run, nothing is written", f"run directory: {folder}"]
    for key, path in (
        ("first_stage.checkpoint", cfg.first_stage.checkpoint),
        ("init_checkpoint", cfg.init_checkpoint),
        ("weak_checkpoint", cfg.weak_checkpoint),
    ):
        if path is not None and not Path(path).exists() and not HUB_ID.fullmatch(str(path)):
            raise UserError(f"{key}: nothing at {path}")
    for stage in stages:
        own = stage.name == "autoencoder"
        if not own:
            sampling, diffusion = build(cfg.sampling), build(cfg.diffusion)
            times_of(sampling["timesteps"], diffusion.schedule, sampling["num_inference_steps"])
        data = build(cfg.first_stage.data if own else cfg.data)
        start = start_of(cfg, folder / stage.name if own else folder)
        about = [*about_data(data, stage), *about_steps(cfg, stage, start), *about_nets(cfg, stage)]
        said += ["", f"{stage.name}, {stage.precision}", *(f"  {line}" for line in about)]
    print("\n".join(said))


def check_writable(folder: Path) -> None:
    """Makes a nameless file in a folder, or where it would be made.

    Raises: UserError if that cannot be.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"hydra.run.dir: {there} cannot be written to: {error.strerror}") from error


def start_of(cfg: DictConfig, folder: Path) -> int:
    """The step at which a stage would start, by the names of its checkpoints: they are not read.

    Raises: UserError, FileNotFoundError if `resume` does not go with what is there.
    """
    store = CheckpointStore(folder / "checkpoints")
    newest = max(store.steps(), default=0)
    if cfg.resume == "auto":
        return newest
    if cfg.resume == "never":
        if newest:
            raise UserError(
                f"resume: {folder} has checkpoints and resume=never; choose another hydra.run.dir"
            )
        return 0
    path = Path(cfg.resume)
    named = path.parent if path.name == STATE else path
    match = NAME.fullmatch(named.resolve().name)
    if match is None or not (named / MANIFEST).is_file():
        raise FileNotFoundError(f"no checkpoint at {path} (resume)")
    if newest > int(match[1]):
        raise UserError(f"resume: {folder} goes on to step {newest}: choose another hydra.run.dir")
    return int(match[1])


def about_data(data: Any, stage: Stage) -> list[str]:
    """What the data has, as far as that is known without reading all of it."""
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
            return [*lines, "no index yet: it is made when the training starts, or by ldm-data index"]
        count = len(data.kept)
    else:
        lines, count = [], len(data.training_keys())
    return [*lines, f"{count:,} images, each {images / max(count, 1):,.2f} times"]


def world_of(cfg: DictConfig) -> int:
    """Number of processes, as far as the config says; those of this machine where it does not."""
    devices = cfg.trainer.devices
    if isinstance(devices, int) and devices > 0:
        return int(devices * cfg.trainer.num_nodes)
    if isinstance(devices, int | str):
        return max(torch.cuda.device_count(), 1) * int(cfg.trainer.num_nodes)
    return len(devices) * int(cfg.trainer.num_nodes)


def micro_batch(cfg: DictConfig, stage: Stage) -> int:
    """Images of a rank at once.

    Raises: UserError if a step's images cannot be spread evenly.
    """
    parts = world_of(cfg) * accumulated(cfg, stage)
    if stage.batch_size % parts:
        raise UserError(
            f"data.batch_size: must be a multiple of {world_of(cfg)} ranks x {accumulated(cfg, stage)} "
            f"accumulated batches, got {stage.batch_size}"
        )
    return stage.batch_size // parts


def accumulated(cfg: DictConfig, stage: Stage) -> int:
    """Batches that are accumulated for a step; the autoencoder's training does without."""
    return 1 if stage.name == "autoencoder" else int(cfg.trainer.accumulate_grad_batches)


def about_steps(cfg: DictConfig, stage: Stage, start: int) -> list[str]:
    """Steps, images and how they are spread."""
    world, parts = world_of(cfg), accumulated(cfg, stage)
    if start >= stage.max_steps:
        now = f"nothing to train: its checkpoint is of step {start:,}"
    else:
        now = f"would go on at step {start:,}" if start else "would start at step 0"
    return [
        f"{stage.max_steps:,} steps of {stage.batch_size:,} images at {stage.image_size} px: "
        f"{stage.batch_size * stage.max_steps:,} images; {now}",
        f"{world} rank{'s' * (world > 1)}, {parts} x {micro_batch(cfg, stage)} images a step each",
    ]


def about_nets(cfg: DictConfig, stage: Stage) -> list[str]:
    """Parameters, memory and checkpoints."""
    precision = stage.precision if stage.precision in AUTOCAST else "32-true"
    gpu = cfg.trainer.accelerator in ("gpu", "cuda") or torch.cuda.is_available()
    setting = Setting(
        precision=precision,
        gpu=gpu,
        checkpointing=stage.name != "autoencoder" and cfg.task.activation_checkpointing,
        accumulate=accumulated(cfg, stage) > 1,
        precomputed=stage.precomputed,
    )
    batch = micro_batch(cfg, stage)
    seen: SimulatedStep = simulate(stage.make, setting, stage.image_size, (batch,))
    gradients, activations = seen.peak(batch)
    held = sum(seen.state.values()) + gradients
    saved = sum(seen.state[kind] for kind in ("parameters", "optimizer", "ema"))
    callback = (cfg.callbacks or {}).get("checkpoint")
    lines = [
        f"{seen.parameters:,} parameters, {seen.model_flops / 1e9:,.4g} GFLOPs an image",
        f"memory of a process, unsharded: {size(held)}, and {size(activations)} of activations",
    ]
    if callback is not None:
        lines.append(
            f"checkpoints of {size(saved)} every {callback.every_n_steps:,} steps, the newest "
            f"{callback.keep} kept"
        )
    return lines
