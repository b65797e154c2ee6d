"""Integrals by Gauss's rule, and the quantiles of beta distributions by means of it."""

import math
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float64
from torch import Tensor

BISECTIONS = 60


@cache
def gauss_legendre(points: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1], exact for polynomials of degree 2 points - 1 (Golub & Welsch 1969)."""
    n = torch.arange(1, points, dtype=torch.float64, device="cpu")
    beside = torch.diag(n / (4 * n**2 - 1).sqrt(), 1)
    nodes, vectors = torch.linalg.eigh(beside + beside.T)
    return ((nodes + 1) / 2).tolist(), vectors[0].square().tolist()


def beta_quantiles(p: Float64[Tensor, " n"], a: float, b: float) -> Float64[Tensor, " n"]:
    """Quantiles of the beta distribution of a and b.

    Args:
        p: probabilities in [0, 1], (n,), on the CPU.
        a: positive.
        b: positive.
    """
    whole = math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
    middle = _below(torch.full((1,), 0.5, dtype=torch.float64, device="cpu"), a, b) / whole
    low = _solved(lambda x: _below(x, a, b) / whole, p)
    high = 1 - _solved(lambda x: _below(x, b, a) / whole, 1 - p)
    return torch.where(p <= middle, low, high)


def _below(x: Tensor, a: float, b: float) -> Tensor:
    """The integral of u^(a-1) (1-u)^(b-1) from 0 to x <= 1/2; u = x w^(4/a) leaves no singularity."""
    total = torch.zeros_like(x)
    for w, share in zip(*gauss_legendre(32), strict=True):
        total += share * 4 * w**3 * (1 - x * w ** (4 / a)) ** (b - 1)
    return x**a / a * total


def _solved(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Where an increasing function on [0, 1/2] has a value; an end where it has not."""
    low, high = torch.zeros_like(value), torch.full_like(value, 0.5)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        less = function(middle) < value
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return (low + high) / 2
