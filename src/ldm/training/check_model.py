"""Checks that the parts of a model fit together, on the meta device, before anything is trained.

The objects themselves are compared, by the members that `ldm.models.protocols` lists: nets of a user's own
are checked like the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ldm.checkpoints.assemble import LoadedModel
from ldm.data.shards.buckets import checked_sizes
from ldm.diffusion.timesteps import times_of
from ldm.generation.support import check_guidance
from ldm.models.protocols import PROTOCOLS, check_protocol
from ldm.utils.construct import construct
from ldm.utils.errors import UserError, with_key
from ldm.utils.meta import meta_device
from ldm.utils.targets import locate


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The nets of a model, on the meta device or loaded; each fulfils its protocol."""

    autoencoder: Any
    text_encoder: Any
    backbone: Any


def check_model(config: Mapping[str, Any], initial: LoadedModel | None = None) -> None:
    """Validates that the parts of a run fit together.

    Args:
        config: of `ldm-train`, plain and resolved.
        initial: the model that the run starts from, whose autoencoder is the run's.

    Raises: UserError for the first two parts that do not fit, with the config key of one of them.
    """
    check_data_of_first_stage(config)
    if config["first_stage"]["task"] is not None:
        check_first_stage(part("autoencoder", config))
    if config["task"] is None:
        return
    nets = parts(config, initial)
    check_channels(nets)
    check_widths(nets)
    check_sizes(nets, config)
    check_sampling(nets, config)


def parts(config: Mapping[str, Any], initial: LoadedModel | None = None) -> Parts:
    """The nets of a config on the meta device, the autoencoder from `initial` if that has one."""
    loaded = {} if initial is None else initial.components
    return Parts(
        autoencoder=loaded.get("autoencoder") or part("autoencoder", config),
        text_encoder=part("text_encoder", config),
        backbone=part("backbone", config),
    )


def part(name: str, config: Mapping[str, Any]) -> nn.Module:
    """A net on the meta device.

    Raises: UserError if it cannot be built or lacks a member of its protocol.
    """
    node = {key: value for key, value in config[name].items() if key != "_partial_"}
    with meta_device():
        net: nn.Module = construct(node, name)
    try:
        check_protocol(net, PROTOCOLS[name])
    except (TypeError, ValueError) as error:
        raise with_key(error, name, ()) from error
    return net


def check_first_stage(autoencoder: Any) -> None:
    """Validates that an autoencoder can be trained."""
    if "training" not in autoencoder.supports:
        kind = type(autoencoder).__name__
        raise UserError(f"{kind} cannot be trained as a first stage; use first_stage=none", "autoencoder")


def check_channels(nets: Parts) -> None:
    """Validates that the backbone reads and predicts as many channels as the latents have.

    An inpainting net also reads the mask and the latents of the masked image; no task here trains one.
    """
    latent = nets.autoencoder.latent_channels
    for name in ("in_channels", "out_channels"):
        channels = getattr(nets.backbone, name)
        if name == "in_channels" and channels == 2 * latent + 1:
            raise UserError(
                f"{channels} make an inpainting net, which cannot be trained; use {latent}",
                "backbone.in_channels",
            )
        if channels != latent:
            raise UserError(
                f"must equal autoencoder.latent_channels={latent}, got {channels}", f"backbone.{name}"
            )


def check_widths(nets: Parts) -> None:
    """Validates that the backbone reads tokens and pooled vectors as wide as the text encoder gives."""
    for name in ("context_dim", "pooled_dim"):
        given, wanted = getattr(nets.text_encoder, name), getattr(nets.backbone, name)
        if wanted is not None and wanted != given:
            kind = type(nets.text_encoder).__name__
            raise UserError(
                f"text_encoder {kind} gives {given or 'none'}, got {wanted}; "
                f"use backbone.{name}={given or 'null'}",
                f"backbone.{name}",
            )


def check_sizes(nets: Parts, config: Mapping[str, Any]) -> None:
    """Validates that the sizes of the images can be encoded and halved by the nets."""
    buckets, side = config["data"].get("buckets"), config["data"]["image_size"]
    factor, position = nets.autoencoder.downscale, nets.backbone.position_size
    if buckets is None:
        if position is not None and position * factor != side:
            raise UserError(
                f"must be image_size / downscale = {side} / {factor}, got {position}",
                "backbone.position_size",
            )
        return
    if position is not None:
        raise UserError(
            f"must be null where data.buckets gives images of many shapes, got {position}",
            "backbone.position_size",
        )
    multiple = factor * nets.backbone.downscale
    for size in checked_sizes(construct(buckets, "data.buckets")):
        if wrong := [side for side in size if side % multiple]:
            raise UserError(
                f"sides must be multiples of {multiple}, the downscale of autoencoder and backbone, got "
                f"{wrong[0]}",
                "data.buckets",
            )


def check_sampling(nets: Parts, config: Mapping[str, Any]) -> None:
    """Validates schedule and prediction, the time grid and the guidance of the sample grids."""
    diffusion, sampling = (
        construct(config["diffusion"], "diffusion"),
        construct(config["sampling"], "sampling"),
    )
    times_of(sampling["timesteps"], diffusion.schedule, sampling["num_inference_steps"])
    rule, scale = sampling.get("guidance"), sampling["guidance_scale"]
    if rule is None:
        return
    try:
        check_guidance(rule, float(scale), nets.backbone, None, weak=config["weak_checkpoint"] is not None)
    except ValueError as error:
        raise with_key(error, "sampling.guidance", ()) from error
    dropout = config["task"]["caption_dropout"]
    if rule.needs_uncond and dropout == 0 and scale != 1:
        raise UserError(
            f"must be 1 when trained without caption dropout (task.caption_dropout={dropout}), got {scale}; "
            "use sampling.guidance_scale=1.0",
            "sampling.guidance_scale",
        )


def check_data_of_first_stage(config: Mapping[str, Any]) -> None:
    """Validates that latents come with the autoencoder that made them; one trained in the run is another."""
    first = config["first_stage"]
    if first["task"] is None:
        return
    if holds_latents(first["data"]):
        raise UserError(
            "latents hold no images to train an autoencoder on; use image shards (data=laion)",
            "first_stage.data",
        )
    if config["task"] is not None and holds_latents(config["data"]) and first["checkpoint"] is None:
        raise UserError(
            "latents need the autoencoder that they were made by, got none", "first_stage.checkpoint"
        )


def holds_latents(node: Mapping[str, Any]) -> bool:
    """True for the config of data that hold latents: they verify the nets that are to read them."""
    return hasattr(locate(node["_target_"]), "verify")
