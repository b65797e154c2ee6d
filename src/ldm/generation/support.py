"""Checks that a model can do what a call requests, so that nothing is ignored in silence."""

from typing import Any

from ldm.diffusion.thresholding import Thresholding
from ldm.guidance import Guidance
from ldm.utils.errors import UserError


def check_guidance(
    rule: Guidance, scale: float, backbone: Any, caption_dropout: float | None, *, weak: bool
) -> None:
    """Raises UserError if a guidance rule cannot be used with a net.

    Args:
        rule: the guidance rule.
        scale: w.
        backbone: the net.
        caption_dropout: with which the net was trained; None where that is unknown.
        weak: True if there is a weaker net.
    """
    given = backbone.supports | ({"weak_checkpoint"} if weak or scale == 1.0 else set())
    if lacking := sorted(rule.needs - given):
        raise UserError(
            f"guidance must be a rule that this {type(backbone).__name__} supports, got "
            f"{type(rule).__name__}, which needs {', '.join(lacking)}"
        )
    if scale != 1.0 and rule.needs_uncond and caption_dropout == 0:
        raise UserError(f"guidance_scale must be 1 for a model trained without caption dropout, got {scale}")


def check_thresholding(rule: Thresholding | None, autoencoder: Any) -> None:
    """Raises UserError for bounds of x0 where the data have none: latents are not pixels."""
    if rule is not None and "thresholding" not in autoencoder.supports:
        raise UserError(
            f"thresholding must be null for a model of latents, which have no bounds, got {rule!r}"
        )
