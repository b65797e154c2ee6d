"""What the net outputs (eps, v or x0), and the only conversion to the estimates (x0, eps)."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


class Denoised(NamedTuple):
    """Estimates of the clean data and of the noise in x_t = alpha x0 + sigma eps."""

    x0: Tensor
    eps: Tensor


class Prediction(Protocol):
    """A prediction type."""

    @property
    def name(self) -> str:
        """Its name in configs."""
        ...

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the net regresses."""
        ...

    def split(self, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Denoised:
        """The estimates that an output of the net stands for."""
        ...


def _safe(x: Tensor) -> Tensor:
    return x.clamp_min(1e-12)


@dataclass(frozen=True, kw_only=True)
class Epsilon:
    """The noise (Ho et al. 2020, Eq. 14)."""

    name: str = "eps"

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns eps."""
        return eps

    def split(self, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Denoised:
        """x0 = (x_t - sigma eps) / alpha."""
        return Denoised((x_t - sigma * out) / _safe(alpha), out)


@dataclass(frozen=True, kw_only=True)
class Velocity:
    """The velocity v = alpha eps - sigma x0 (Salimans & Ho 2022, App. D)."""

    name: str = "v"

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns v."""
        return alpha * eps - sigma * x0

    def split(self, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Denoised:
        """x0 = alpha x_t - sigma v, eps = sigma x_t + alpha v."""
        return Denoised(alpha * x_t - sigma * out, sigma * x_t + alpha * out)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The clean data x0."""

    name: str = "x0"

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns x0."""
        return x0

    def split(self, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Denoised:
        """eps = (x_t - alpha x0) / sigma."""
        return Denoised(out, (x_t - alpha * out) / _safe(sigma))
