"""Averages of weights over power functions of the training, and any of them made of a few (post-hoc EMA).

Reference: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models",
arXiv:2312.02696, Section 3 and Appendix C, whose numbers the equations have. Time is counted in images.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ldm.utils.errors import UserError

WIDEST = 12**-0.5  # sigma_rel of the plain mean, gamma = 0


@functools.cache
def gamma_of(sigma_rel: float) -> float:
    """The exponent whose profile has a relative standard deviation (Eq. 126, Algorithm 2).

    The inverse of `sigma_rel_of`: the largest root of
    gamma^3 + 7 gamma^2 + (16 - sigma_rel^-2) gamma + (12 - sigma_rel^-2) = 0.
    """
    if not 0.0 < sigma_rel < WIDEST:
        raise UserError(f"sigma_rel must be in (0, {WIDEST:.4f}), got {sigma_rel}")
    t = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real.max())


def sigma_rel_of(gamma: float) -> float:
    """Standard deviation of the profile tau^gamma on [0, t], relative to t (Eq. 123)."""
    return math.sqrt((gamma + 1.0) / (gamma + 3.0)) / (gamma + 2.0)


@dataclass(frozen=True, kw_only=True)
class PowerFunction:
    """Decay of the average of all weights so far, that after tau images weighing as tau^gamma (Eq. 127).

    The width of its memory is always the same part of the training so far.

    Args:
        sigma_rel: standard deviation of that profile, relative to its length, in (0, 0.2887).
    """

    sigma_rel: float

    def __post_init__(self) -> None:
        """Checks the range."""
        gamma_of(self.sigma_rel)

    def __call__(self, before: int, after: int) -> float:
        """Old average kept from `before` to `after` images seen: beta_gamma = (1 - 1 / t)^(gamma + 1)."""
        return (before / after) ** (gamma_of(self.sigma_rel) + 1.0)


def power_functions(widths: Sequence[float]) -> list[PowerFunction]:
    """The decays of averages of several widths.

    Raises: ValueError if there is none of a width, or one comes twice.
    """
    if len(set(widths)) < len(widths):
        raise UserError(f"power_ema must name each sigma_rel once, got {list(widths)}")
    return [PowerFunction(sigma_rel=width) for width in widths]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Which average of the weights: that over a power function, up to a point of the training.

    Args:
        images: the point, in images seen.
        sigma_rel: its relative width.
    """

    images: int
    sigma_rel: float


def inner_products(a: Sequence[Profile], b: Sequence[Profile]) -> Float64[np.ndarray, "a b"]:
    """Integrals over the training of the products of two profiles, each of integral 1 (Eq. 151).

    Returns: one for each pair, in 1 / images.
    """
    t_a, t_b = (np.array([p.images for p in ps], dtype=np.float64) for ps in (a, b))
    g_a, g_b = (np.array([gamma_of(p.sigma_rel) for p in ps]) for ps in (a, b))
    t_a, g_a = t_a[:, None], g_a[:, None]
    ratio = np.minimum(t_a, t_b) / np.maximum(t_a, t_b)
    longer = np.where(t_a < t_b, g_b, g_a)  # exponent of the profile that goes on longer
    scale = (g_a + 1.0) * (g_b + 1.0) / (g_a + g_b + 1.0)
    return scale * ratio**longer / np.maximum(t_a, t_b)


def posthoc_weights(snapshots: Sequence[Profile], target: Profile) -> tuple[Float64[np.ndarray, " n"], float]:
    """The sum of snapshots that comes nearest to an average that was not kept (Algorithm 3).

    Args:
        snapshots: profiles of the averages that were kept, all different.
        target: the profile wanted.

    Returns: weights of the snapshots, of sum 1, for the least squares between the profiles; and the distance
        that is left, relative to the target's norm: 0 for one that was kept, 1 for one that has nothing to do
        with them.
    """
    if target in snapshots:
        return np.array([float(p == target) for p in snapshots]), 0.0
    a = inner_products(snapshots, snapshots)
    b = inner_products(snapshots, [target])[:, 0]
    norms = np.sqrt(np.diag(a))
    scaled = a / norms[:, None] / norms  # 1 on the diagonal
    weights = np.linalg.lstsq(scaled, b / norms, rcond=None)[0] / norms
    weights = weights / weights.sum()
    norm = float(inner_products([target], [target])[0, 0])
    left = norm - 2.0 * weights @ b + weights @ a @ weights
    return weights, math.sqrt(max(float(left) / norm, 0.0))
