"""Classifier-free guidance and the caption dropout that makes it possible."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.process import Net

Backbone = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""Maps (x_t, t, cond) to the prediction."""


def guide(backbone: Backbone, cond: Conditioning, uncond: Conditioning | None, scale: float) -> Net:
    """The net (x_t, t) -> out_u + w (out_c - out_u) (Ho & Salimans 2022, arXiv:2207.12598, Eq. 6: w - 1).

    Args:
        backbone: maps (x_t, t, cond) to the prediction; called once a step, on a batch of two halves.
        cond: conditioning of the batch.
        uncond: conditioning of the empty (or negative) captions, shaped as cond; not used at scale 1.
        scale: w; 1 is the conditional net alone (one half the work), 0 the unconditional one.

    Raises:
        ValueError: if scale is not 1 and uncond is None.
    """
    if scale == 1.0:
        return lambda x_t, t: backbone(x_t, t, cond)
    if uncond is None:
        raise ValueError(
            f"guidance_scale {scale} needs the unconditional embedding, only 1 does without (guidance_scale)"
        )
    both = uncond.cat(cond)

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        out = backbone(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
        out_u, out_c = out.to(torch.promote_types(x_t.dtype, torch.float32)).chunk(2)
        return out_u + scale * (out_c - out_u)

    return guided


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
        raise ValueError(f"caption_dropout must be in [0, 1], got {probability} (task.caption_dropout)")
    return ["" if x < probability else c for c, x in zip(captions, u.tolist(), strict=True)]
