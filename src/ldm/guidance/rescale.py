"""Classifier-free guidance, rescaled to the contrast of the conditional prediction."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ldm.diffusion.process import Diffusion, Net
from ldm.guidance.base import Branches, alone, combined, norm_dims


@dataclass(frozen=True, kw_only=True)
class CFGRescale:
    """CFG with the standard deviation of the conditional output (Lin et al. 2023, arXiv:2305.08891, 3.4).

    Args:
        phi: share of the rescaled output; 0 is CFG.
    """

    phi: float = 0.7

    needs_uncond: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if not 0.0 <= self.phi <= 1.0:
            raise ValueError(f"phi must be in [0, 1], got {self.phi}")

    def __call__(self, branches: Branches, scale: float, diffusion: Diffusion) -> Net:
        """The guided net (Eq. 14 to 16)."""
        if scale == 1.0 or branches.uncond is None:
            return alone(branches.cond)

        def guided(x_t: Tensor, t: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
            out = uncond + scale * (cond - uncond)
            dims = norm_dims(out)
            ratio = cond.std(dims, keepdim=True) / out.std(dims, keepdim=True).clamp(min=1e-12)
            return out * torch.lerp(torch.ones_like(ratio), ratio, self.phi)

        return combined(guided, branches.cond, branches.uncond)
