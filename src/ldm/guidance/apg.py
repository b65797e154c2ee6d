"""Adaptive projected guidance."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ldm.diffusion.process import Diffusion, Net
from ldm.guidance.base import Branches, alone, combined, data_in, norm_dims, output_of


@dataclass(frozen=True, kw_only=True)
class APG:
    """CFG on x0, its step bounded and across the estimate (Sadat et al. 2024, arXiv:2410.02416, Alg. 1).

    Args:
        eta: weight of the part of the step that is parallel to the conditional estimate; 1 keeps it.
        momentum: beta, of the running sum of steps; 0 for none. Each evaluation of the net adds to the sum,
            as in Alg. 1, whose solver has one a step; with a solver of two or three the sum forgets as much
            faster.
        norm_threshold: r, largest norm of a step, over all elements of an image; null for no bound.
    """

    eta: float = 0.0
    momentum: float = -0.5
    norm_threshold: float | None = 7.5

    needs_uncond: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if not -1.0 < self.momentum < 1.0:
            raise ValueError(f"momentum must be in (-1, 1), got {self.momentum}")
        if self.norm_threshold is not None and not self.norm_threshold > 0:
            raise ValueError(f"norm_threshold must be positive, got {self.norm_threshold}")

    def __call__(self, branches: Branches, scale: float, diffusion: Diffusion) -> Net:
        """The guided net; it holds the running sum of one sampling run."""
        if scale == 1.0 or branches.uncond is None:
            return alone(branches.cond)
        running: Tensor | None = None

        def guided(x_t: Tensor, t: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
            nonlocal running
            x0_c, x0_u = (data_in(diffusion, x_t, t, out) for out in (cond, uncond))
            step = x0_c - x0_u
            if self.momentum:
                running = step = step if running is None else step + self.momentum * running
            return output_of(diffusion, x_t, t, x0_c + (scale - 1) * self._bounded(step, x0_c))

        return combined(guided, branches.cond, branches.uncond)

    def _bounded(self, step: Tensor, x0: Tensor) -> Tensor:
        """The step with norm at most r and its component parallel to x0 scaled by eta."""
        dims = norm_dims(step)
        if self.norm_threshold is not None:
            size = torch.linalg.vector_norm(step, dim=dims, keepdim=True).clamp(min=1e-12)
            step = step * (self.norm_threshold / size).clamp(max=1.0)
        along = (step * x0).sum(dims, keepdim=True) / x0.square().sum(dims, keepdim=True).clamp(min=1e-12)
        return step + (self.eta - 1) * along * x0
