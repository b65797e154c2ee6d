"""Perturbed-attention guidance."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ldm.diffusion.process import Diffusion, Net
from ldm.guidance.base import Branches, alone, combined


@dataclass(frozen=True, kw_only=True)
class PAG:
    """CFG plus s (out_c - out_p), out_p with the mid self-attention at the identity (Ahn et al. 2024).

    arXiv:2403.17377. At a guidance scale of 1, without CFG, it also guides unconditional models and models
    trained without caption dropout.

    Args:
        scale: s; 0 is CFG.
    """

    scale: float = 3.0

    needs_uncond: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ValueError(f"scale must be at least 0, got {self.scale}")

    @property
    def needs(self) -> frozenset[str]:
        """Self-attention in the net's middle that can be perturbed."""
        return frozenset({"pag"}) if self.scale else frozenset()

    def __call__(self, branches: Branches, scale: float, diffusion: Diffusion) -> Net:
        """The guided net: one call on a batch of two or three parts."""
        others = [branches.cond._replace(perturbed=True)] if self.scale else []
        if scale != 1.0 and branches.uncond is not None:
            others.append(branches.uncond)
        if not others:
            return alone(branches.cond)

        def guided(x_t: Tensor, t: Tensor, cond: Tensor, *rest: Tensor) -> Tensor:
            out = cond
            if self.scale:
                out, rest = out + self.scale * (cond - rest[0]), rest[1:]
            return out + (scale - 1) * (cond - rest[0]) if rest else out

        return combined(guided, branches.cond, *others)
