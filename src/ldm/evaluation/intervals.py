"""Confidence intervals of mean losses: of one run, and of the difference of two on the same draws."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ldm.diffusion.quadrature import BISECTIONS, gauss_legendre
from ldm.utils.errors import UserError

LEVEL = 0.95
MANY = 1e5  # degrees of freedom from which the quantile is the normal one, to 1e-4


class Interval(NamedTuple):
    """A confidence interval of a mean.

    Attributes:
        mean: its middle.
        half: half its width.
    """

    mean: float
    half: float

    @property
    def low(self) -> float:
        """Its lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.mean + self.half

    @property
    def excludes_zero(self) -> bool:
        """True if the mean differs from 0 at the interval's level."""
        return abs(self.mean) > self.half


def student_quantile(freedom: float, level: float = LEVEL) -> float:
    """The t with P(|T| < t) = level for Student's distribution (Student 1908).

    With t = sqrt(nu) tan(a) the probability is the integral of cos^(nu - 1) from 0 to a over that to pi / 2;
    nu need not be whole.

    Args:
        freedom: degrees of freedom nu, at least 1.
        level: probability, in (0, 1).

    Raises: ValueError for values out of range.
    """
    if not freedom >= 1:
        raise UserError(f"freedom must be at least 1, got {freedom}")
    if not 0 < level < 1:
        raise UserError(f"level must be in (0, 1), got {level}")
    if freedom > MANY:
        return float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
    power, (nodes, weights) = freedom - 1, gauss_legendre(32)
    whole = math.exp(math.lgamma(0.5) + math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)) / 2
    low, high = 0.0, math.pi / 2
    for _ in range(BISECTIONS):
        angle = (low + high) / 2
        below = angle * sum(w * math.cos(angle * u) ** power for u, w in zip(nodes, weights, strict=True))
        low, high = (angle, high) if below < level * whole else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def stratified_interval(
    loss: Float[Tensor, " n"], stratum: Int64[Tensor, " n"], strata: int, level: float = LEVEL
) -> Interval:
    """Mean over equally probable strata and its interval (Cochran 1977, Eqs. 5.11, 5.15, 5.16).

    With mean m_h and variance s_h^2 of the n_h draws of stratum h, the mean is sum_h m_h / H, its variance V
    the sum of v_h = s_h^2 / (n_h H^2), and half the width t sqrt(V). t is Student's, as few draws estimate
    their variance badly, for Satterthwaite's degrees of freedom V^2 / sum_h (v_h^2 / (n_h - 1)).

    Args:
        loss: of each draw.
        stratum: of each draw, in 0 .. H - 1; at least two draws in each.
        strata: their number H.
        level: probability that the interval covers the true mean.

    Raises: ValueError if a stratum has less than two draws.
    """
    counts = torch.bincount(stratum, minlength=strata)
    if len(counts) != strata or int(counts.min()) < 2:
        raise UserError(f"stratum must have at least two draws in each of {strata}, got {counts.tolist()}")
    groups = [loss[stratum == h].double() for h in range(strata)]
    mean = sum(float(group.mean()) for group in groups) / strata
    parts = [(float(group.var()) / len(group) / strata**2, len(group) - 1) for group in groups]
    variance = sum(v for v, _ in parts)
    if not variance > 0:
        return Interval(mean, 0.0 if variance == 0 else math.nan)
    scaled = [(v / variance, freedom) for v, freedom in parts]  # v^2 alone could underflow
    freedom = 1 / sum(v**2 / n for v, n in scaled)
    return Interval(mean, student_quantile(max(freedom, 1.0), level) * math.sqrt(variance))


def paired_difference(
    first: Float[Tensor, " n"],
    second: Float[Tensor, " m"],
    stratum: Int64[Tensor, " n"] | None = None,
    strata: int = 1,
    level: float = LEVEL,
) -> Interval:
    """Mean of first - second over the same draws, and its interval: Student's paired comparison.

    Most of a loss's spread is that of samples, times and noise, which two runs share: the interval of the
    difference is far narrower than those of the two means, which may overlap though the runs differ.

    Args:
        first: loss of each draw of one run, (n,).
        second: of another run, draw for draw, (n,).
        stratum: of each draw, in 0 .. H - 1; None: one for all.
        strata: their number H.
        level: probability that the interval covers the true difference.

    Raises: ValueError if the runs have not the same number of draws, or a stratum less than two.
    """
    if first.shape != second.shape:
        raise UserError(f"second must have as many draws as first, {len(first)}, got {len(second)}")
    if stratum is None:
        stratum = torch.zeros(len(first), dtype=torch.int64, device=first.device)
    return stratified_interval(first.double() - second.double(), stratum, strata, level)
