"""Checks that nets and their config fit a pipeline, and each other."""

from collections.abc import Collection, Mapping
from typing import Any

from ldm.checkpoints.assemble import COMPONENTS
from ldm.checkpoints.families import check_channels
from ldm.utils.errors import UserError

SETTINGS = ("scheduler", "timesteps", "num_inference_steps", "guidance_scale")


def check_settings(config: Mapping[str, Any]) -> None:
    """Raises ValueError if the config of a model lacks a setting that sampling needs."""
    for key in ("diffusion", "sampling", "image_size"):
        if key not in config:
            raise UserError(f"the config of the model lacks {key!r}")
    if missing := [name for name in SETTINGS if name not in config["sampling"]]:
        raise UserError(f"the config of the model lacks {', '.join(missing)} in 'sampling'")


def check_complete(path: Any, components: Collection[str]) -> None:
    """Raises ValueError naming the nets that a checkpoint lacks."""
    missing = [name for name in COMPONENTS if name not in components]
    if missing and list(components) == ["autoencoder"]:
        raise UserError(f"{path} holds an autoencoder alone: give it as vae=, with a checkpoint of a model")
    if missing:
        raise UserError(f"{path} is no complete model: it has no {', '.join(missing)}")


def check_input_channels(autoencoder: Any, backbone: Any, extra: int) -> None:
    """Checks how many input channels a denoising net has besides those of the latents.

    Raises: ValueError naming the pipeline that fits.
    """
    latent, found = autoencoder.latent_channels, backbone.in_channels
    if found == latent + extra:
        return
    check_channels(found, latent)
    kind = "no inpainting model" if extra else "an inpainting model: use InpaintPipeline (mode=inpaint)"
    raise UserError(f"a net with {found} input channels for latents of {latent} is {kind}")


def check_same_latents(path: Any, own: Any, other: Any) -> None:
    """Checks that two denoising nets read the same latents.

    Args:
        path: of the other one's checkpoint.
        own: the first net.
        other: the second.

    Raises: ValueError if they do not.
    """
    for name in ("in_channels", "position_size"):
        mine, theirs = (getattr(net, name) for net in (own, other))
        if mine != theirs:
            raise UserError(f"{path} is not for the same latents: {name} {theirs}, not {mine}")
