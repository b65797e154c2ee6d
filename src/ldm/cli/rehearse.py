"""The stages that a config trains, as modules on the meta device: for plans and dry runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ldm.cli.config import build
from ldm.planning.estimate import Cluster
from ldm.planning.simulate import Setting, SimulatedStep, Trained, simulate
from ldm.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the training.

    Args:
        name: of the stage.
        make: makes its module, without nets.
        image_size: height and width of its images.
        batch_size: images of a step.
        max_steps: steps of the stage.
        precision: of the trainer.
        precomputed: whether its data are encoded ahead of time.
    """

    name: str
    make: Callable[[], Trained]
    image_size: int
    batch_size: int
    max_steps: int
    precision: str
    precomputed: bool = False


def stages_of(cfg: DictConfig) -> list[Stage]:
    """The stages that a run of the config trains; a rehearsal says itself whether blocks are recomputed.

    Raises: UserError if it trains nothing.
    """
    cfg = plain_nets(cfg)
    stages, first, precision = [], cfg.first_stage, cfg.trainer.precision

    def diffusion() -> Any:
        with torch.device("meta"):
            autoencoder = build(cfg.autoencoder)()
        return build(cfg.task, autoencoder=autoencoder)

    if first.task is not None and first.checkpoint is None:
        stages.append(
            Stage(
                name="autoencoder",
                make=lambda: build(first.task),
                image_size=first.data.image_size,
                batch_size=first.task.batch_size,
                max_steps=first.max_steps,
                precision=precision,
            )
        )
    if cfg.task is not None:
        stages.append(
            Stage(
                name="latent diffusion",
                make=diffusion,
                image_size=cfg.task.image_size,
                batch_size=cfg.task.batch_size,
                max_steps=cfg.trainer.max_steps,
                precision=precision,
                precomputed=_encoded_ahead(cfg),
            )
        )
    if not stages:
        raise UserError("task: nothing is trained: neither task nor first_stage.task is set")
    return stages


def _encoded_ahead(cfg: DictConfig) -> bool:
    """What `precomputed` of ldm-plan says, or whether the data are latents."""
    said = OmegaConf.select(cfg, "precomputed")
    return str(cfg.data._target_).endswith(".LatentData") if said is None else bool(said)


def plain_nets(cfg: DictConfig) -> DictConfig:
    """The config with no weights to be fetched for the text encoder and blocks as they are written."""
    changes: dict[str, Any] = {}
    if OmegaConf.select(cfg, "text_encoder.pretrained") is not None:
        changes["text_encoder"] = {"pretrained": None}
    if cfg.task is not None:
        changes["task"] = {"activation_checkpointing": False, "compile": False}
    merged = OmegaConf.merge(cfg, changes)
    assert isinstance(merged, DictConfig)
    return merged


def simulated_steps(stage: Stage, cluster: Cluster) -> dict[bool, SimulatedStep]:
    """Steps of a stage on a cluster, without checkpointing of activations and with it."""
    return {
        checkpointing: simulate(
            stage.make,
            Setting(
                precision=stage.precision,
                gpu=cluster.gpu,
                checkpointing=checkpointing,
                accumulate=stage.batch_size > cluster.world,
                precomputed=stage.precomputed,
            ),
            stage.image_size,
        )
        for checkpointing in (False, True)
    }
