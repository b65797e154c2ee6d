"""Bounds of the estimate of x0 for data with a known range, such as pixels: wrappers of the denoiser."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.prediction import Denoise, Denoised, noise_in
from ldm.diffusion.schedule import NoiseSchedule


@runtime_checkable
class Thresholding(Protocol):
    """Maps estimates of x0 to estimates within bounds."""

    def __call__(self, x0: Tensor) -> Tensor:
        """The bounded estimates, shaped as x0."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """x0 clipped to [-bound, bound] (the code of Ho et al. 2020, arXiv:2006.11239).

    Args:
        bound: of the data.
    """

    bound: float = 1.0

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise ValueError(f"bound must be positive, got {self.bound}")

    def __call__(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Clips."""
        return x0.clamp(-self.bound, self.bound)


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """x0 clipped to [-s, s] and divided by s, the quantile of |x0| of each sample, where s is at least 1.

    Saharia et al. 2022 (arXiv:2205.11487, section 2.3).

    Args:
        quantile: in (0, 1].
        max_threshold: s is at most this.
    """

    quantile: float = 0.995
    max_threshold: float = float("inf")

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ValueError(f"quantile must be in (0, 1], got {self.quantile}")
        if not self.max_threshold >= 1:
            raise ValueError(f"max_threshold must be at least 1, got {self.max_threshold}")

    def __call__(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Clips and rescales each sample."""
        sizes = x0.abs().flatten(1).sort(dim=1).values  # torch.quantile refuses more than 2^24 numbers
        place = self.quantile * (sizes.shape[1] - 1)
        s = torch.lerp(sizes[:, int(place)], sizes[:, min(int(place) + 1, sizes.shape[1] - 1)], place % 1)
        s = s.clamp(1, self.max_threshold).view(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-s, s) / s


def thresholded(denoise: Denoise, schedule: NoiseSchedule, rule: Thresholding | None) -> Denoise:
    """The denoiser with its x0 bounded and eps such that x_t = alpha x0 + sigma eps still holds.

    Args:
        denoise: maps (x_t, t) to the estimates.
        schedule: noise levels.
        rule: of the bounds; None for none.
    """
    if rule is None:
        return denoise

    def bounded(x_t: Tensor, t: Tensor) -> Denoised:
        found = denoise(x_t, t)
        alpha, sigma = schedule(t, x_t.ndim, found.x0.dtype)
        x0 = rule(found.x0)
        return found._replace(x0=x0, eps=noise_in(x_t, x0, alpha, sigma))

    return bounded
