"""CFG-Zero*: an optimised scale of the unconditional output, and zero velocity in the first steps."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ldm.diffusion.process import Diffusion, Net
from ldm.guidance.base import Branches, alone, combined, norm_dims, output_of


@dataclass(frozen=True, kw_only=True)
class CFGZeroStar:
    """s out_u + w (out_c - s out_u) with s = <out_c, out_u> / |out_u|^2 (Fan et al. 2025, arXiv:2503.18886).

    The outputs are velocities in the paper, predictions of any type here.

    Args:
        zero_share: share of the times, from T-1 down, at which the velocity eps - x0 is set to zero.
    """

    zero_share: float = 0.04

    needs_uncond: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if not 0.0 <= self.zero_share <= 1.0:
            raise ValueError(f"zero_share must be in [0, 1], got {self.zero_share}")

    def __call__(self, branches: Branches, scale: float, diffusion: Diffusion) -> Net:
        """The guided net (Alg. 1)."""
        if scale == 1.0 or branches.uncond is None:
            return alone(branches.cond)
        zero_from = (1 - self.zero_share) * diffusion.schedule.num_train_timesteps - 1

        def guided(x_t: Tensor, t: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
            dims = norm_dims(cond)
            energy = uncond.square().sum(dims, keepdim=True).clamp(min=1e-12)
            s = (cond * uncond).sum(dims, keepdim=True) / energy
            out = s * uncond + scale * (cond - s * uncond)
            still = (t > zero_from).view(-1, *[1] * (x_t.ndim - 1))
            return torch.where(still, _zero_velocity(diffusion, x_t, t), out) if still.any() else out

        return combined(guided, branches.cond, branches.uncond)


def _zero_velocity(diffusion: Diffusion, x: Tensor, t: Tensor) -> Tensor:
    """The output of zero velocity, x0 = eps."""
    alpha, sigma = diffusion.schedule(t, x.ndim)
    spread = diffusion.schedule.spread(t, x.ndim) if diffusion.schedule.scales_input else 1.0
    return output_of(diffusion, x, t, x * spread / (alpha + sigma))
