"""Weights of multistep rules: integrals of the polynomials through the estimates of earlier steps."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.quadrature import gauss_legendre

MAX_GROWTH = 3.0
POINTS = 16  # exact for polynomials of degree 31; the exponentials of long steps to 1e-12


def lagrange_integrals(
    nodes: list[Tensor], start: Tensor, end: Tensor, weight: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """The integrals from start to end of weight(u) l_j(u), l_j being 1 at node j and 0 at the others.

    By Gauss's rule in float64; differences of closed forms lose all digits in small steps.
    """
    total = [torch.zeros_like(start) for _ in nodes]
    for place, share in zip(*gauss_legendre(POINTS), strict=True):
        u = start + place * (end - start)
        for j, node in enumerate(nodes):
            value = share * (end - start) * weight(u)
            for other in nodes[:j] + nodes[j + 1 :]:
                value = value * (u - other) / (node - other)
            total[j] = total[j] + value
    return total


class Estimate(NamedTuple):
    """The denoiser's estimate at an earlier step, at the half log-SNR `at`."""

    at: Tensor
    value: Tensor


History = tuple[Estimate, ...]


def remember(history: History | None, at: Tensor, value: Tensor, length: int) -> History:
    """The history with the newest estimate first, at most `length` of them; one at pure noise is left out."""
    if not bool(torch.isfinite(at).all()):
        return ()
    return (Estimate(at, value), *(history or ()))[:length]


def steady(history: History, h: Tensor) -> History:
    """The estimates to extrapolate x0 from over a step of h in the half log-SNR.

    Where it is more than 3 times the last one, as the end of `leading` grids is, polynomials through the past
    overshoot, and the noise in the estimates grows: only the newest is taken. Smooth grids have no such step.
    """
    if len(history) > 1 and bool((h > MAX_GROWTH * (history[0].at - history[1].at)).any()):
        return history[:1]
    return history
