"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.process import Net

Backbone = Callable[[Tensor, Tensor, Conditioning], Tensor]


def guide(backbone: Backbone, cond: Conditioning, uncond: Conditioning | None, scale: float) -> Net:
    """The net (x_t, t) -> out_u + w (out_c - out_u) (Eq. 6 with w = 1 + their w).

    Args:
        backbone: maps (x_t, t, cond) to the prediction.
        cond: conditioning of the prompts.
        uncond: conditioning of the negative prompts; may be None when scale is 1.
        scale: guidance_scale w; at 1 the net runs once, on the condition alone, else once on a batch of two.
    """
    if scale == 1.0:
        return lambda x_t, t: backbone(x_t, t, cond)
    if uncond is None:
        raise ValueError(f"guidance_scale {scale} needs an unconditional condition (guidance_scale)")
    both = uncond.cat(cond)

    def net(x_t: Tensor, t: Tensor) -> Tensor:
        out_u, out_c = backbone(torch.cat([x_t, x_t]), torch.cat([t, t]), both).float().chunk(2)
        return out_u + scale * (out_c - out_u)

    return net


def drop_captions(captions: list[str], probability: float, u: Float[Tensor, " b"]) -> list[str]:
    """Captions with the empty one in place of each whose uniform number u is below the probability."""
    return ["" if drop else caption for caption, drop in zip(captions, (u < probability).tolist(), strict=True)]
