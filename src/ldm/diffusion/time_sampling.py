"""Training times as maps of uniform numbers."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule


class TimeSampling(Protocol):
    """Maps uniform numbers to times."""

    def __call__(self, u: Float[Tensor, " b"], schedule: NoiseSchedule) -> Float[Tensor, " b"]:
        """Times in schedule units for u in [0, 1)."""
        ...


def _scale(fraction: Tensor, schedule: NoiseSchedule) -> Tensor:
    return fraction * (schedule.num_train_timesteps - 1)


@dataclass(frozen=True, kw_only=True)
class UniformTimes:
    """Uniform times in [0, T - 1].

    Args:
        discrete: only the integers 0 .. T-1, as in DDPM.
    """

    discrete: bool = False

    def __call__(self, u: Float[Tensor, " b"], schedule: NoiseSchedule) -> Float[Tensor, " b"]:
        """Returns the times."""
        return (u * schedule.num_train_timesteps).floor() if self.discrete else _scale(u, schedule)


@dataclass(frozen=True, kw_only=True)
class ShiftedTimes:
    """Times shifted towards noise: f = s u / (1 + (s - 1) u) (Esser et al. 2024, arXiv:2403.03206, Eq. 23).

    Args:
        shift: s >= 0; 1 is uniform, larger numbers train more on noisier inputs, where the caption decides.
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        """Checks the range."""
        if self.shift <= 0:
            raise ValueError(f"shift must be positive, got {self.shift} (time_sampling.shift)")

    def __call__(self, u: Float[Tensor, " b"], schedule: NoiseSchedule) -> Float[Tensor, " b"]:
        """Returns the times."""
        return _scale(self.shift * u / (1.0 + (self.shift - 1.0) * u), schedule)


@dataclass(frozen=True, kw_only=True)
class LogitNormalTimes:
    """Times whose logit is normal (Esser et al. 2024, Eq. 19).

    Args:
        mean: of the logit; positive numbers favour noise.
        std: of the logit.
    """

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, u: Float[Tensor, " b"], schedule: NoiseSchedule) -> Float[Tensor, " b"]:
        """Returns the times."""
        z = torch.special.ndtri(u.double().clamp(1e-9, 1.0 - 1e-9)).float()
        return _scale(torch.sigmoid(self.mean + self.std * z), schedule)
