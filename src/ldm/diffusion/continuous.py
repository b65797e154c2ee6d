"""Noise schedules in closed form: flow matching and variance exploding."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule
from ldm.utils.errors import UserError


def _inside(t: Tensor, num_train_timesteps: int) -> Tensor:
    """Times in float64 (float32 where the device has none), NaN outside of [-1, T-1]."""
    t = t.to(torch.float32 if t.device.type == "mps" else torch.float64)
    return torch.where((t < -1) | (t > num_train_timesteps - 1), torch.nan, t)


@dataclass(frozen=True, kw_only=True)
class FlowMatching(NoiseSchedule):
    """alpha = 1 - tau, sigma = tau with tau = shift u / (1 + (shift - 1) u) and u = (t + 1) / T.

    Rectified flow (Liu et al. 2023, arXiv:2209.03003, Eq. 1; Lipman et al. 2023, arXiv:2210.02747, with time
    reversed); shift is that of Esser et al. 2024 (arXiv:2403.03206, Eq. 23). The last level is pure noise.

    Training covers u in [1 / T, 1] and not, as Eq. 1, (0, 1 / T): no solver evaluates a net below t = 0, from
    where its last step leads to the data, and there the net would have to tell noise of less than 1 / T apart
    from the data. Diffusers' training of Stable Diffusion 3 has the levels 1 / T, 2 / T, ..., 1.

    Args:
        num_train_timesteps: T; u = 1 / T, the first level, is the least noise in training.
        shift: multiplies sigma/alpha at each time; above 1 for larger images.
    """

    num_train_timesteps: int = 1000
    shift: float = 1.0

    def __post_init__(self) -> None:
        _check_length(self.num_train_timesteps)
        if not (math.isfinite(self.shift) and self.shift > 0):
            raise ValueError(f"shift must be positive, got {self.shift}")

    def log_snr(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """2 log((1 - u) / (shift u))."""
        u = (_inside(t, self.num_train_timesteps) + 1) / self.num_train_timesteps
        return 2 * (torch.log1p(-u) - torch.log(self.shift * u))

    def time(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """T u - 1 with u / (1 - u) = exp(-log_snr / 2) / shift."""
        return self.num_train_timesteps * torch.sigmoid(-log_snr / 2 - math.log(self.shift)) - 1

    def levels(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) with alpha + sigma = 1."""
        return torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2)


@dataclass(frozen=True, kw_only=True)
class VarianceExploding(NoiseSchedule):
    """alpha = 1 and sigma^(1/rho) linear in t from sigma_min to sigma_max (Karras et al. 2022, Eq. 5).

    arXiv:2206.00364; from t = -1 to 0 sigma is linear. The net reads x_t / sqrt(1 + sigma^2), so that with
    prediction=v it is preconditioned as in their Table 1 for data of unit variance.

    Args:
        num_train_timesteps: T.
        sigma_min: noise at t = 0.
        sigma_max: noise at t = T-1.
        rho: how much the levels are drawn to the low end.
    """

    num_train_timesteps: int = 1000
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    scales_input: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_length(self.num_train_timesteps)
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if not self.rho > 0:
            raise ValueError(f"rho must be positive, got {self.rho}")

    @property
    def _ends(self) -> tuple[float, float]:
        """sigma_min^(1/rho) and what is added to it on the way to sigma_max^(1/rho)."""
        low = self.sigma_min ** (1 / self.rho)
        return low, self.sigma_max ** (1 / self.rho) - low

    def log_snr(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """-2 log sigma."""
        (low, width), t = self._ends, _inside(t, self.num_train_timesteps)
        value = -2 * self.rho * torch.log(low + width * t.clamp(min=0) / (self.num_train_timesteps - 1))
        return torch.where(t < 0, -2 * (math.log(self.sigma_min) + torch.log1p(t)), value)

    def time(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Inverse of `log_snr`."""
        (low, width), log_sigma = self._ends, -log_snr / 2
        t = (torch.exp(log_sigma / self.rho) - low) / width * (self.num_train_timesteps - 1)
        below = torch.expm1(log_sigma - math.log(self.sigma_min))
        return torch.where(below < 0, below, t.clamp(0, self.num_train_timesteps - 1))

    def levels(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """(1, sigma)."""
        sigma = torch.exp(-log_snr / 2)
        return torch.where(sigma.isnan(), sigma, 1.0), sigma


def _check_length(num_train_timesteps: int) -> None:
    if num_train_timesteps < 3:
        raise UserError(f"num_train_timesteps must be at least 3, got {num_train_timesteps}")
