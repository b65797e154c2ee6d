"""Fits a module: trainer, callbacks and loggers from a config, resumed where the run stopped."""

import logging
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger

from ldm.checkpoints.training import trained_tensors
from ldm.training.autoencoder import AutoencoderTraining
from ldm.training.callbacks.averages import FollowAverages
from ldm.training.callbacks.checkpoints import Checkpoints
from ldm.training.distributed.environment import environment
from ldm.training.distributed.slurm import Stopped
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.resume import Point
from ldm.training.summary import Summary
from ldm.utils.construct import construct
from ldm.utils.device import has_bf16
from ldm.utils.machine import revision

log = logging.getLogger(__name__)

Module = AutoencoderTraining | LatentDiffusion


def fit(module: Module, data: Any, config: dict[str, Any], summary: Summary, start: Point) -> None:
    """Fits a module, from a checkpoint if there is one to go on from.

    Args:
        module: the module; it has the weights of the last step afterwards.
        data: its data module.
        config: of the run, with the trainer, callbacks and loggers of this stage and its folder `paths.run`.
        summary: gets the time.
        start: the checkpoint to go on from.

    Raises: Stopped or KeyboardInterrupt if the training ended before its last step.
    """
    path, step = start
    if path is not None:
        log.info("%s: going on at step %d of %s", module.stage, step, path)
        if step >= config["trainer"]["max_steps"]:
            module.configure_model()
            module.load_state_dict(trained_tensors(path, module.state_dict()))
            return
        data.resume(step)
    trainer = build_trainer(config)
    for logger in trainer.loggers:
        logger.log_hyperparams({**config, **revision()})
    with summary.timed(module.stage):
        trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
        raise_if_stopped(trainer)
    module.to(trainer.strategy.root_device)  # Lightning has put it on the CPU, but there is more to draw
    for logger in trainer.loggers:  # W&B would log the next stage into the same run
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def build_trainer(config: dict[str, Any]) -> pl.Trainer:
    """The trainer with callbacks, loggers, launcher and a precision that the machine has."""
    node = config["trainer"]
    callbacks = list(constructed(config, "callbacks").values())
    # what callbacks log, draw and save is of the averages after the step; a checkpoint holds their states
    callbacks.sort(key=lambda callback: isinstance(callback, Checkpoints))
    launcher = environment(node["devices"], node["num_nodes"])
    trainer: pl.Trainer = construct(
        node | {"precision": available_precision(node["precision"], node["accelerator"])},
        "trainer",
        callbacks=[FollowAverages(), *callbacks],
        logger=list(constructed(config, "logger").values()),
        plugins=[] if launcher is None else [launcher],
    )
    return trainer


def constructed(config: dict[str, Any], group: str) -> dict[str, Any]:
    """The objects of a group of nodes by name; a name without a node is left out."""
    nodes = (config[group] or {}).items()
    return {name: construct(node, f"{group}.{name}") for name, node in nodes if node is not None}


def available_precision(wanted: str, accelerator: str) -> str:
    """The precision of the trainer; float32 in place of a bfloat16 that would be emulated.

    Args:
        wanted: Lightning's name of the precision.
        accelerator: Lightning's name of the kind of device.
    """
    kinds = {"gpu": "cuda", "auto": "cuda" if torch.cuda.is_available() else "cpu"}
    kind = kinds.get(accelerator, accelerator)
    if wanted != "bf16-mixed" or kind not in ("cpu", "cuda") or has_bf16(torch.device(kind)):
        return wanted
    log.info("this %s has no bfloat16: training in float32", kind)
    return "32-true"


def raise_if_stopped(trainer: pl.Trainer) -> None:
    """Raises what ended the training before its last step, if anything did."""
    callbacks = cast(Any, trainer).callbacks
    if stopped := max((getattr(callback, "stopped_by", 0) for callback in callbacks), default=0):
        raise Stopped(stopped)
    if trainer.global_step < trainer.max_steps:
        raise KeyboardInterrupt
