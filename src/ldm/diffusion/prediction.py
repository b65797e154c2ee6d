"""Prediction types: the regression target, and the only conversion of an output into (x0, eps)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


class Denoised(NamedTuple):
    """Estimates of clean data and noise with x_t = alpha_t x0 + sigma_t eps.

    Attributes:
        x0: clean data.
        eps: noise.
        variance: of a net that learned it, where between "small" and "large" the log-variance of a step lies,
            in [-1, 1] (Nichol & Dhariwal 2021, arXiv:2102.09672, Eq. 15); else None.
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor | None = None


Denoise = Callable[[Tensor, Tensor], Denoised]
"""Maps noisy data x_t (b, ...) and times t (b,) or (1,) to the estimates (x0, eps)."""


@runtime_checkable
class Prediction(Protocol):
    """A prediction type: the quantity that a net regresses.

    Attributes:
        name: its name in configs.
        needs_signal: True if x0 is undetermined at alpha = 0.
    """

    name: ClassVar[str]
    needs_signal: ClassVar[bool]

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The regression target, shaped as x0."""

    def split(self, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Denoised:
        """The estimates (x0, eps) that the output stands for."""

    def error_ratio(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Squared errors of x0 and of eps per squared error of the prediction; +inf where undetermined."""


@dataclass(frozen=True, kw_only=True)
class Epsilon:
    """The noise eps (Ho et al. 2020, arXiv:2006.11239, Eq. 14)."""

    name: ClassVar[str] = "eps"
    needs_signal: ClassVar[bool] = True

    def target(
        self,
        x0: Float[Tensor, "b ..."],
        eps: Float[Tensor, "b ..."],
        alpha: Float[Tensor, "#b ..."],
        sigma: Float[Tensor, "#b ..."],
    ) -> Float[Tensor, "b ..."]:
        """Returns eps."""
        return eps

    def split(
        self,
        out: Float[Tensor, "b ..."],
        x_t: Float[Tensor, "b ..."],
        alpha: Float[Tensor, "#b ..."],
        sigma: Float[Tensor, "#b ..."],
    ) -> Denoised:
        """x0 = (x_t - sigma eps) / alpha."""
        return Denoised((x_t - sigma * out) / alpha, out)

    def error_ratio(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(1 / SNR, 1)."""
        return (sigma / alpha).square(), torch.ones_like(alpha)


@dataclass(frozen=True, kw_only=True)
class Velocity:
    """The velocity v = alpha eps - sigma x0 (Salimans & Ho 2022, arXiv:2202.00512, App. D).

    Divided by sqrt(alpha^2 + sigma^2), which is 1 where variance is preserved; with exploding variance -v is
    what the net of Karras et al. 2022 (arXiv:2206.00364, Eq. 8) is trained on, for data of unit variance.
    """

    name: ClassVar[str] = "v"
    needs_signal: ClassVar[bool] = False

    def target(
        self,
        x0: Float[Tensor, "b ..."],
        eps: Float[Tensor, "b ..."],
        alpha: Float[Tensor, "#b ..."],
        sigma: Float[Tensor, "#b ..."],
    ) -> Float[Tensor, "b ..."]:
        """Returns (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2)."""
        return (alpha * eps - sigma * x0) / torch.hypot(alpha, sigma)

    def split(
        self,
        out: Float[Tensor, "b ..."],
        x_t: Float[Tensor, "b ..."],
        alpha: Float[Tensor, "#b ..."],
        sigma: Float[Tensor, "#b ..."],
    ) -> Denoised:
        """x0 = cos x - sin v, eps = sin x + cos v: a rotation of x = x_t / r, stable at every noise level.

        Cosine and sine are alpha / r and sigma / r; r = sqrt(alpha^2 + sigma^2) is 1 if variance is kept.
        """
        r = torch.hypot(alpha, sigma)
        cos, sin, x = alpha / r, sigma / r, x_t / r
        return Denoised(cos * x - sin * out, sin * x + cos * out)

    def error_ratio(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma^2, alpha^2) / (alpha^2 + sigma^2)."""
        squared = alpha.square() + sigma.square()
        return sigma.square() / squared, alpha.square() / squared


@dataclass(frozen=True, kw_only=True)
class FlowVelocity:
    """The velocity u = eps - x0 of a straight path (Liu et al. 2023, arXiv:2209.03003, Eq. 1, reversed)."""

    name: ClassVar[str] = "flow"
    needs_signal: ClassVar[bool] = False

    def target(
        self,
        x0: Float[Tensor, "b ..."],
        eps: Float[Tensor, "b ..."],
        alpha: Float[Tensor, "#b ..."],
        sigma: Float[Tensor, "#b ..."],
    ) -> Float[Tensor, "b ..."]:
        """Returns eps - x0."""
        return eps - x0

    def split(
        self,
        out: Float[Tensor, "b ..."],
        x_t: Float[Tensor, "b ..."],
        alpha: Float[Tensor, "#b ..."],
        sigma: Float[Tensor, "#b ..."],
    ) -> Denoised:
        """x0 = (x_t - sigma u) / (alpha + sigma) and eps = (x_t + alpha u) / (alpha + sigma)."""
        total = alpha + sigma
        return Denoised((x_t - sigma * out) / total, (x_t + alpha * out) / total)

    def error_ratio(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma^2, alpha^2) / (alpha + sigma)^2."""
        squared = (alpha + sigma).square()
        return sigma.square() / squared, alpha.square() / squared


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The clean data x0 itself."""

    name: ClassVar[str] = "x0"
    needs_signal: ClassVar[bool] = False

    def target(
        self,
        x0: Float[Tensor, "b ..."],
        eps: Float[Tensor, "b ..."],
        alpha: Float[Tensor, "#b ..."],
        sigma: Float[Tensor, "#b ..."],
    ) -> Float[Tensor, "b ..."]:
        """Returns x0."""
        return x0

    def split(
        self,
        out: Float[Tensor, "b ..."],
        x_t: Float[Tensor, "b ..."],
        alpha: Float[Tensor, "#b ..."],
        sigma: Float[Tensor, "#b ..."],
    ) -> Denoised:
        """eps = (x_t - alpha x0) / sigma, and 0 at sigma = 0, where there is no noise."""
        return Denoised(out, noise_in(x_t, out, alpha, sigma))

    def error_ratio(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(1, SNR)."""
        return torch.ones_like(alpha), (alpha / sigma).square()


def noise_in(x_t: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps = (x_t - alpha x0) / sigma, 0 where sigma = 0."""
    noisy = sigma > 0
    return torch.where(noisy, (x_t - alpha * x0) / torch.where(noisy, sigma, 1.0), 0.0)
