"""Guidance at some noise levels only."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ldm.diffusion.process import Diffusion, Net
from ldm.guidance.base import Branches, Guidance, alone
from ldm.guidance.cfg import CFG


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A rule where sigma / alpha is in (low, high], else no guidance (Kynkaanniemi et al. 2024, Eq. 5).

    arXiv:2404.07724; outside of the interval the net runs on half the rows.

    Args:
        low: sigma_lo.
        high: sigma_hi; null for no bound.
        rule: used inside.
    """

    low: float = 0.28
    high: float | None = 5.42
    rule: Guidance = field(default_factory=CFG)

    def __post_init__(self) -> None:
        if not 0.0 <= self.low < (torch.inf if self.high is None else self.high):
            raise ValueError(f"need 0 <= low < high, got {self.low} and {self.high}")

    @property
    def needs_uncond(self) -> bool:
        """As of the rule used inside."""
        return self.rule.needs_uncond

    @property
    def needs(self) -> frozenset[str]:
        """Those of the rule."""
        return self.rule.needs

    def __call__(self, branches: Branches, scale: float, diffusion: Diffusion) -> Net:
        """The net with guidance inside of the interval only."""
        guided, plain = self.rule(branches, scale, diffusion), alone(branches.cond)
        high = torch.inf if self.high is None else self.high

        def net(x_t: Tensor, t: Tensor) -> Tensor:
            sigma = torch.exp(-diffusion.schedule.log_snr(t) / 2)
            inside = (sigma > self.low) & (sigma <= high)
            if inside.all():
                return guided(x_t, t)
            out = plain(x_t, t)
            if not inside.any():
                return out
            return torch.where(inside.view(-1, *[1] * (x_t.ndim - 1)), guided(x_t, t), out)

        return net
