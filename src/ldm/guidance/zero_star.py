"""CFG-Zero*: an optimised scale of the unconditional output, and zero velocity in the first steps."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ldm.diffusion.prediction import noise_in
from ldm.diffusion.process import Diffusion, Net
from ldm.guidance.base import Branches, alone, combined, data_in, norm_dims, output_of


@dataclass(frozen=True, kw_only=True)
class CFGZeroStar:
    """s v_u + w (v_c - s v_u) with s = <v_c, v_u> / |v_u|^2 (Fan et al. 2025, arXiv:2503.18886).

    v is the velocity eps - x0, as in the paper, whatever the net predicts.

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
            v_c, v_u = (_velocity(diffusion, x_t, t, out) for out in (cond, uncond))
            dims = norm_dims(v_c)
            energy = v_u.square().sum(dims, keepdim=True).clamp(min=1e-12)
            s = (v_c * v_u).sum(dims, keepdim=True) / energy
            v = s * v_u + scale * (v_c - s * v_u)
            still = (t > zero_from).view(-1, *[1] * (x_t.ndim - 1))
            return _output(diffusion, x_t, t, torch.where(still, 0.0, v))

        return combined(guided, branches.cond, branches.uncond)


def _velocity(diffusion: Diffusion, x: Tensor, t: Tensor, out: Tensor) -> Tensor:
    """The velocity eps - x0 of an output; x is the net's input."""
    x_t, alpha, sigma = _noisy(diffusion, x, t)
    x0 = data_in(diffusion, x, t, out)
    return noise_in(x_t, x0, alpha, sigma) - x0


def _output(diffusion: Diffusion, x: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """The output that gives a velocity, inverse of `_velocity`: x0 = (x_t - sigma v) / (alpha + sigma)."""
    x_t, alpha, sigma = _noisy(diffusion, x, t)
    return output_of(diffusion, x, t, (x_t - sigma * v) / (alpha + sigma))


def _noisy(diffusion: Diffusion, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x_t and its levels (alpha, sigma); x is the net's input."""
    alpha, sigma = diffusion.schedule(t, x.ndim)
    spread = diffusion.schedule.spread(t, x.ndim) if diffusion.schedule.scales_input else 1.0
    return x * spread, alpha, sigma
