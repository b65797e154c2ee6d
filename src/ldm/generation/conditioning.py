"""Captions -> conditioning, and the nets with their conditioning as a guidance rule evaluates them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.generation.job import Job
from ldm.generation.offload import brought
from ldm.generation.reading import PLAIN, Reading
from ldm.guidance import Branch, Branches
from ldm.guidance.base import Backbone
from ldm.utils.errors import UserError


class Denoiser(NamedTuple):
    """A denoising net and the text encoder that it was trained with."""

    text_encoder: Any
    backbone: Any


def encode(
    text_encoder: Any, captions: list[str], clip_skip: int = 0, reading: Reading = PLAIN
) -> Conditioning:
    """Conditioning of captions; the empty caption is the unconditional one.

    Args:
        text_encoder: captions -> Conditioning.
        captions: b captions.
        clip_skip: layers to leave out at the end of a CLIP text encoder.
        reading: of the captions.

    Raises: ValueError for `clip_skip` or a reading that a text encoder does not support.
    """
    options = {"clip_skip": (clip_skip, 0)}
    options |= {name: (getattr(reading, name), getattr(PLAIN, name)) for name in Reading._fields}
    used = {name: value for name, (value, plain) in options.items() if value != plain}
    for name, value in used.items():
        if name not in text_encoder.supports:
            encoder = type(text_encoder).__name__
            raise UserError(
                f"{name} must be {options[name][1]} for {encoder}, which does not support it, got {value}"
            )
    cond: Conditioning = brought(text_encoder).encode(captions, **used)
    return cond


def in_float32(backbone: Any, dtype: torch.dtype, count: Callable[[int], None]) -> Backbone:
    """A net with its output in float32, whichever dtype it computes in; rows of other lengths go apart.

    Args:
        backbone: the net.
        dtype: that it computes in.
        count: called with the rows of each evaluation.
    """

    def net(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        count(len(x_t))
        if cond.lengths is None:
            return rows(x_t, t, cond)
        parts = [(places, rows(x_t[places], t[places], part)) for places, part in cond.by_length()]
        order = torch.cat([places for places, _ in parts]).argsort()
        return torch.cat([out for _, out in parts])[order]

    def rows(x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        out: Tensor = brought(backbone)(x_t.to(dtype), t, cond).float()
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

    def conditioning(captions: list[str], of: Denoiser, embeds: Tensor | None = None) -> Conditioning:
        if embeds is None:
            found = encode(of.text_encoder, [captions[i] for i in rows], job.given.clip_skip, job.reading)
        else:
            found = Conditioning(tokens=embeds[rows.start : rows.stop])
        guidance = None
        if job.net_scale is not None and "guidance_scale" in of.backbone.supports:
            guidance = torch.full((len(rows),), job.net_scale, device=job.draws.device)
        return replace(found, concat=concat, guidance=guidance)

    net = wrap(own.backbone)
    cond = conditioning(job.prompts, own, job.embeds)
    uncond = other = None
    if job.scale != 1.0 and job.guidance.needs_uncond and not cond.is_empty:
        uncond = Branch(net, conditioning(job.negatives, own, job.negative_embeds))
    if job.scale != 1.0 and weak is not None:
        captions = job.negatives if job.given.negative_prompt else job.prompts
        other = Branch(wrap(weak.backbone), conditioning(captions, weak))
    return Branches(Branch(net, cond), uncond, other)
