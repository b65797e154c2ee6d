"""Guidance by a weaker net."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ldm.diffusion.process import Diffusion, Net
from ldm.guidance.base import Branches, alone, combined
from ldm.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Autoguidance:
    """out_weak + w (out_c - out_weak) (Karras et al. 2024, arXiv:2406.02507, Eq. 3 with D0 and D1).

    The weaker net has the same task, such as an early checkpoint of the same run (`weak_checkpoint`).
    """

    needs_uncond: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"weak_checkpoint"})

    def __call__(self, branches: Branches, scale: float, diffusion: Diffusion) -> Net:
        """The guided net: one call of each of the two.

        Raises:
            ValueError: if scale is not 1 and there is no weaker net.
        """
        if scale == 1.0:
            return alone(branches.cond)
        if branches.weak is None:
            raise UserError("autoguidance needs a weak checkpoint, such as an early one of the same run")

        def guided(x_t: Tensor, t: Tensor, cond: Tensor, weak: Tensor) -> Tensor:
            return weak + scale * (cond - weak)

        return combined(guided, branches.cond, branches.weak)
