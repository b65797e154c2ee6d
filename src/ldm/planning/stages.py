"""The stages that a config trains, as modules that can be planned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ldm.planning.estimate import Cluster
from ldm.planning.simulate import Setting, simulate
from ldm.planning.simulated_step import SimulatedStep
from ldm.training.check_model import check_model
from ldm.training.probe import Trained
from ldm.utils.construct import construct
from ldm.utils.errors import UserError
from ldm.utils.meta import meta_device
from ldm.utils.targets import locate


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
        precomputed: the data are encoded ahead of time.
        shardable: FSDP can train it.
    """

    name: str
    make: Callable[[], Trained]
    image_size: int
    batch_size: int
    max_steps: int
    precision: str
    precomputed: bool = False
    shardable: bool = True


def stages_of(config: Mapping[str, Any]) -> list[Stage]:
    """The stages that a run trains; their modules neither recompute nor compile blocks.

    Args:
        config: of `ldm-train` or `ldm-plan`, plain and resolved.

    Raises: UserError if nothing is trained or the nets do not fit together.
    """
    config = plain_nets(config)
    check_model(config)
    first, task, precision = config["first_stage"], config["task"], config["trainer"]["precision"]
    stages = []
    base_has_it = config.get("adapters") is not None  # adapters are for all of init_checkpoint
    if first["task"] is not None and first["checkpoint"] is None and not base_has_it:
        stages.append(
            Stage(
                name="autoencoder",
                make=lambda: construct(first["task"], "first_stage.task"),
                image_size=first["data"]["image_size"],
                batch_size=first["task"]["batch_size"],
                max_steps=first["max_steps"],
                precision=precision,
            )
        )
    if task is not None:
        stages.append(
            Stage(
                name="latent diffusion",
                make=lambda: diffusion_model(config),
                image_size=task["image_size"],
                batch_size=task["batch_size"],
                max_steps=config["trainer"]["max_steps"],
                precision=precision,
                precomputed=encoded_ahead(config),
                shardable=task.get("adapters") is None,
            )
        )
    if not stages:
        raise UserError("nothing is trained: neither task nor first_stage.task is set", "task")
    return stages


def diffusion_model(config: Mapping[str, Any]) -> Any:
    """The module that trains the diffusion model, its autoencoder on the meta device."""
    with meta_device():
        autoencoder = construct(config["autoencoder"], "autoencoder")()
    return construct(config["task"], "task", autoencoder=autoencoder)


def encoded_ahead(config: Mapping[str, Any]) -> bool:
    """True if latents come from the data: by `precomputed` of ldm-plan, or because the data verify them."""
    given = config.get("precomputed")
    return hasattr(locate(config["data"]["_target_"]), "verify") if given is None else bool(given)


def plain_nets(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without weights to fetch for the text encoder and without recomputed or compiled blocks."""
    if config["task"] is None:
        return dict(config)
    text = dict(config["text_encoder"])
    if text.get("pretrained") is not None:
        text["pretrained"] = None
    changes = {"text_encoder": text, "activation_checkpointing": False, "compile": False}
    return {**config, "text_encoder": text, "task": {**config["task"], **changes}}


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
