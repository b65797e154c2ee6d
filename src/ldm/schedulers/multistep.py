"""Weights of multistep rules: integrals of the polynomials through the estimates of earlier steps."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.quadrature import gauss_legendre

MAX_GROWTH, MAX_GROWTH_FURTHER, MAX_SPAN = 2.0, 1.2, 2.0
POINTS = 16  # exact for polynomials of degree 31; the exponentials of long steps to 1e-12


def lagrange_integrals(
    nodes: list[Tensor], start: Tensor, end: Tensor, weight: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """The integrals from start to end of weight(u) l_j(u), l_j being 1 at node j and 0 at the others.

    By Gauss's rule in float64; differences of closed forms lose all digits in small steps.
    """
    places, shares = (
        torch.tensor(v, dtype=start.dtype, device=start.device).view(-1, *[1] * start.ndim)
        for v in gauss_legendre(POINTS)
    )
    u = start + places * (end - start)  # (points, b, 1, .., 1)
    base, total = shares * (end - start) * weight(u), []
    for j, node in enumerate(nodes):
        value = base
        for other in nodes[:j] + nodes[j + 1 :]:
            value = value * (u - other) / (node - other)
        total.append(value.sum(0))
    return total


class Estimate(NamedTuple):
    """The denoiser's estimate at an earlier step, at the half log-SNR `at`."""

    at: Tensor
    value: Tensor


History = tuple[Estimate, ...]


class Path(NamedTuple):
    """The estimates of the noise on a path, and the data that the last step led to."""

    history: History
    end: Tensor

    def through(self, x: Tensor, eps: Tensor) -> History:
        """The history of the path through x; where `on_step` replaced the data it has none but eps."""
        return tuple(Estimate(e.at, torch.where(x == self.end, e.value, eps)) for e in self.history)


def remember(history: History | None, at: Tensor, value: Tensor, length: int) -> History:
    """The history with the newest estimate first, at most `length` of them; one at pure noise is left out."""
    if not bool(torch.isfinite(at).all()):
        return ()
    return (Estimate(at, value), *(history or ()))[:length]


def steady(history: History, h: Tensor) -> History:
    """The estimates to extrapolate x0 from over a step of h in the half log-SNR.

    Beyond its nodes a polynomial overshoots and magnifies the noise in the estimates, the more the higher its
    degree. A second estimate is taken for steps of up to twice the last one, which the end of `leading`
    grids exceeds; further ones up to 1.2 times, and as far back as 2 from the end of the step: over that
    length x0 turns from its mean to the data, and is no parabola.
    """
    count = 1
    while count < len(history):
        longest = (MAX_GROWTH if count == 1 else MAX_GROWTH_FURTHER) * (history[0].at - history[1].at)
        span = torch.zeros_like(h) if count == 1 else h + history[0].at - history[count].at
        if bool(((h > longest) | (span > MAX_SPAN)).any()):
            break
        count += 1
    return history[:count]
