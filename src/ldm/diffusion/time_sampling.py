"""Distributions of the training time: pure maps of uniform numbers u in [0, 1) to times t in [0, T-1]."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule


@runtime_checkable
class TimeSampling(Protocol):
    """Maps uniform numbers to times; increasing, so that stratified u give stratified t."""

    def __call__(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Times (b,) of numbers u (b,)."""


@dataclass(frozen=True, kw_only=True)
class UniformTimes:
    """Uniform times.

    Args:
        discrete: whole times 0..T-1 as in DDPM's training, rather than real ones in [0, T-1].
    """

    discrete: bool = False

    def __call__(self, u: Float[Tensor, " b"], schedule: NoiseSchedule) -> Float[Tensor, " b"]:
        """t = u (T-1), or floor(u T)."""
        num = schedule.num_train_timesteps
        return (u * num).floor().clamp(max=num - 1) if self.discrete else u * (num - 1)


@dataclass(frozen=True, kw_only=True)
class LogitNormalTimes:
    """t / (T-1) = sigmoid(mean + std z) with z normal (Esser et al. 2024, arXiv:2403.03206, Eq. 19).

    Args:
        mean: of the logit; positive favours noise.
        std: of the logit; small concentrates the times.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def __call__(self, u: Float[Tensor, " b"], schedule: NoiseSchedule) -> Float[Tensor, " b"]:
        """Quantiles of the logit-normal distribution."""
        z = torch.special.ndtri(u)
        return torch.sigmoid(self.mean + self.std * z) * (schedule.num_train_timesteps - 1)


@dataclass(frozen=True, kw_only=True)
class ShiftedTimes:
    """t / (T-1) = shift u / (1 + (shift - 1) u) (Esser et al. 2024, arXiv:2403.03206, Eq. 23).

    The map is one of times. On the straight paths of `flow` it lowers the log-SNR by 2 ln(shift) everywhere,
    which is what the paper derives it for. On other schedules the difference varies with the time: a constant
    one would lead beyond their last level, and all times that do would become that level.

    Args:
        shift: above 1 favours noise, as larger images need; 1 is uniform.
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift must be positive, got {self.shift}")

    def __call__(self, u: Float[Tensor, " b"], schedule: NoiseSchedule) -> Float[Tensor, " b"]:
        """Shifted uniform times."""
        return (
            u / (u + (1 - u) / self.shift) * (schedule.num_train_timesteps - 1)
        )  # the form that cannot pass 1


@dataclass(frozen=True, kw_only=True)
class CosineMapTimes:
    """t / (T-1) = 1 - 1 / (1 + tan(pi u / 2)) (Esser et al. 2024, arXiv:2403.03206, section 3.1, "CosMap").

    On straight paths it gives the log-SNR the distribution that the cosine schedule has.
    """

    def __call__(self, u: Float[Tensor, " b"], schedule: NoiseSchedule) -> Float[Tensor, " b"]:
        """The mapped times."""
        sin, cos = torch.sin(torch.pi / 2 * u), torch.cos(torch.pi / 2 * u)
        return sin / (sin + cos) * (schedule.num_train_timesteps - 1)  # the form without an infinity


@dataclass(frozen=True, kw_only=True)
class LogNormalTimes:
    """log(sigma / alpha) normal, within the schedule (Karras et al. 2022, arXiv:2206.00364, Table 1).

    Args:
        mean: P_mean - log(sigma_data). The paper's P_mean of -1.2 is for data of standard deviation 1/2; for
            the same noise relative to data of unit variance, as latents are, it is -1.2 + log 2.
        std: P_std.
    """

    mean: float = -0.5069
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def __call__(self, u: Float[Tensor, " b"], schedule: NoiseSchedule) -> Float[Tensor, " b"]:
        """The times of the quantiles, clamped to [0, T-1]."""
        t = schedule.time(-2 * (self.mean + self.std * torch.special.ndtri(u.double())))
        return t.clamp(0, schedule.num_train_timesteps - 1).to(u.dtype)
