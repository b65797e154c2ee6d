"""Tensors that a caller gives in place of prompts and of the noise that sampling starts from."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ldm.generation.settings import Settings
from ldm.utils.errors import UserError

EMBEDS = ("prompt_embeds", "negative_prompt_embeds")


def check_latents(latents: Any, shape: tuple[int, ...]) -> None:
    """Raises UserError unless latents, if given, are one for each image of a call.

    Args:
        latents: (n, c, h, w) or None.
        shape: that they must have.
    """
    if latents is None:
        return
    check_shape(latents, shape)
    if not bool(latents.isfinite().all()):
        raise UserError("latents must be finite, got NaN or infinite values")


def check_shape(latents: Any, shape: tuple[int, ...]) -> None:
    """Raises UserError unless latents are a floating-point tensor of a shape."""
    if not isinstance(latents, Tensor) or not latents.is_floating_point() or tuple(latents.shape) != shape:
        found = (
            f"{latents.dtype} {tuple(latents.shape)}"
            if isinstance(latents, Tensor)
            else type(latents).__name__
        )
        raise UserError(f"latents must be a floating-point tensor {shape}, one for each image, got {found}")


def placeholders(prompt: str | Sequence[str] | None, given: Settings) -> list[str]:
    """Empty prompts, one for each image of encoded prompts; none if no encoded prompts are given.

    Raises: ValueError for prompts besides.
    """
    if (embeds := given.prompt_embeds) is None:
        return []
    if prompt is not None:
        raise UserError(f"prompt must be left out where prompt_embeds are given, got {prompt!r}")
    if given.num_images is not None:
        raise UserError(f"num_images must be left out where prompt_embeds are given, got {given.num_images}")
    if not isinstance(embeds, Tensor) or embeds.ndim != 3 or not len(embeds):
        raise UserError(f"prompt_embeds must be a tensor (n, l, d), got {_described(embeds)}")
    return [""] * len(embeds) * given.num_images_per_prompt


def check_embeds(given: Settings, text_encoder: Any, guided: bool, weak: bool) -> None:
    """Raises UserError for encoded prompts that a model cannot be conditioned on.

    Args:
        given: arguments of a call.
        text_encoder: of the model.
        guided: True if the net is evaluated on the negative prompts as well.
        weak: True if there is a weaker net, which has a text encoder of its own.
    """
    found = {name: value for name in EMBEDS if (value := getattr(given, name)) is not None}
    width = text_encoder.context_dim
    for name, value in found.items():
        if width is None or text_encoder.pooled_dim is not None or weak:
            raise UserError(
                f"{name} must be left out for a model that is conditioned on more than tokens of "
                f"one text encoder, got {_described(value)}"
            )
        if not isinstance(value, Tensor) or value.ndim != 3 or value.shape[2] != width:
            raise UserError(f"{name} must be a tensor (n, l, {width}), got {_described(value)}")
        if given.clip_skip:
            raise UserError(f"clip_skip must be 0 where {name} are given, got {given.clip_skip}")
    if "negative_prompt_embeds" in found and given.negative_prompt is not None:
        raise UserError("negative_prompt must be left out where negative_prompt_embeds are given")
    if found and guided:
        lengths = [
            value.shape[1] if (value := found.get(name)) is not None else text_encoder.max_length
            for name in EMBEDS
        ]
        if lengths[0] != lengths[1]:
            raise UserError(
                f"negative_prompt_embeds must be as long as the prompts, {lengths[0]}, got {lengths[1]}"
            )


def embeds_of(given: Settings, count: int, to: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Encoded prompts and negative prompts, (count, l, d) each, as arguments of a job.

    Args:
        given: arguments of a call.
        count: number of images.
        to: device to put them on.
        dtype: of the net.

    Raises: ValueError if the negative ones are neither one nor as many as prompts.
    """
    found, prompts = {}, count // given.num_images_per_prompt
    for name, embeds in (("embeds", given.prompt_embeds), ("negative_embeds", given.negative_prompt_embeds)):
        if embeds is None:
            continue
        if len(embeds) not in (1, prompts):
            raise UserError(
                f"negative_prompt_embeds must be one or {prompts}, one a prompt, got {len(embeds)}"
            )
        found[name] = embeds.detach().to(to, dtype).repeat_interleave(count // len(embeds), 0)
    return found


def _described(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
