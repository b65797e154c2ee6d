"""Classifier-free guidance and the caption dropout that it needs in training."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.process import Diffusion, Net
from ldm.guidance.base import Branches, alone, combined
from ldm.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CFG:
    """out_u + w (out_c - out_u) (Ho & Salimans 2022, arXiv:2207.12598, Eq. 6, whose w is ours minus 1)."""

    needs_uncond: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, branches: Branches, scale: float, diffusion: Diffusion) -> Net:
        """The guided net: one call on a batch of two halves; the conditional net alone at w = 1."""
        if scale == 1.0 or branches.uncond is None:
            return alone(branches.cond)

        def guided(x_t: Tensor, t: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
            return uncond + scale * (cond - uncond)

        return combined(guided, branches.cond, branches.uncond)


def drop_captions(captions: list[str], probability: float, u: Float[Tensor, " b"]) -> list[str]:
    """The captions with "" where u < probability (Ho & Salimans 2022, arXiv:2207.12598, Alg. 1).

    Args:
        captions: b captions.
        probability: of dropping one, in [0, 1].
        u: uniform numbers in [0, 1), (b,).

    Raises:
        ValueError: if the probability is not in [0, 1].
    """
    if not 0.0 <= probability <= 1.0:
        raise UserError(f"caption_dropout must be in [0, 1], got {probability}")
    if probability == 0.0:  # the numbers are not looked at, nor waited for on a GPU
        return list(captions)
    return ["" if x < probability else c for c, x in zip(captions, u.tolist(), strict=True)]


def drop_embeddings(
    cond: Conditioning, empty: Conditioning, probability: float, u: Float[Tensor, " b"]
) -> Conditioning:
    """The embeddings of captions with that of "" where u < probability: `drop_captions` after encoding.

    Args:
        cond: of b captions.
        empty: of the empty caption, for one image.
        probability: of dropping one, in [0, 1].
        u: uniform numbers in [0, 1), (b,).
    """
    swapped = {}
    for name in ("tokens", "pooled"):
        given, blank = getattr(cond, name), getattr(empty, name)
        if given is not None:
            dropped = (u < probability).view(-1, *[1] * (given.ndim - 1))
            swapped[name] = torch.where(dropped, blank, given)
    return replace(cond, **swapped)
