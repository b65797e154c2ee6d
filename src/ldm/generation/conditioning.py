"""Captions -> conditioning, and the nets with their conditioning as a guidance rule evaluates them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.generation.job import Job
from ldm.guidance import Branch, Branches
from ldm.guidance.base import Backbone
from ldm.utils.errors import UserError


class Denoiser(NamedTuple):
    """A denoising net and the text encoder that it was trained with."""

    text_encoder: Any
    backbone: Any


def encode(text_encoder: Any, captions: list[str], clip_skip: int = 0) -> Conditioning:
    """Conditioning of captions; the empty caption is the unconditional one.

    Args:
        text_encoder: captions -> Conditioning.
        captions: b captions.
        clip_skip: layers to leave out at the end of a CLIP text encoder.

    Raises: ValueError for `clip_skip` with a text encoder that does not support it.
    """
    if clip_skip and "clip_skip" not in text_encoder.supports:
        name = type(text_encoder).__name__
        raise UserError(f"clip_skip must be 0 for {name}, which does not support it, got {clip_skip}")
    skipped = {"clip_skip": clip_skip} if clip_skip else {}
    cond: Conditioning = text_encoder.encode(captions, **skipped)
    return cond


def in_float32(backbone: Any, dtype: torch.dtype, count: Callable[[int], None]) -> Backbone:
    """A net with its output in float32, whichever dtype it computes in.

    Args:
        backbone: the net.
        dtype: that it computes in.
        count: called with the rows of each evaluation.
    """

    def net(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        count(len(x_t))
        out: Tensor = backbone(x_t.to(dtype), t, cond).float()
        return out

    return net


def branches(
    job: Job,
    rows: range,
    own: Denoiser,
    weak: Denoiser | None,
    wrap: Callable[[Any], Backbone],
    concat: Tensor | None,
) -> Branches:
    """The nets with their conditioning for some of the images, as far as the guidance evaluates them.

    Args:
        job: the call.
        rows: the images.
        own: the model's net and text encoder.
        weak: those of a weaker model, for autoguidance.
        wrap: maps a net to the one that is evaluated.
        concat: further input channels, (b, k, h, w).
    """

    def conditioning(captions: list[str], of: Denoiser) -> Conditioning:
        found = encode(of.text_encoder, [captions[i] for i in rows], job.given.clip_skip)
        scale = (
            None
            if job.net_scale is None
            else torch.full((len(rows),), job.net_scale, device=job.draws.device)
        )
        reads = "guidance_scale" in of.backbone.supports
        return replace(found, concat=concat, guidance=scale if reads else None)

    net, cond = wrap(own.backbone), conditioning(job.prompts, own)
    uncond = other = None
    if job.scale != 1.0 and job.guidance.needs_uncond and not cond.is_empty:
        uncond = Branch(net, conditioning(job.negatives, own))
    if job.scale != 1.0 and weak is not None:
        captions = job.negatives if job.given.negative_prompt else job.prompts
        other = Branch(wrap(weak.backbone), conditioning(captions, weak))
    return Branches(Branch(net, cond), uncond, other)
