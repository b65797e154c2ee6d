"""Loss weights on the squared error of the prediction, in closed form and finite at every noise level."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldm.diffusion.prediction import Prediction


class Weighting(Protocol):
    """Maps noise levels to loss weights."""

    def __call__(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Weight at levels (alpha, sigma) for an error in the prediction's space."""
        ...


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Weight 1 on the error of what the net predicts."""

    def __call__(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Returns ones."""
        return torch.ones_like(alpha)


@dataclass(frozen=True, kw_only=True)
class MinSNR:
    """Weight min(snr, gamma) on the error of x0 (Hang et al. 2023, arXiv:2303.09556, Sec. 3.4).

    Written without a division by alpha or sigma: with c = min(alpha^2, gamma sigma^2) the weight is c / alpha^2 for
    eps, c for v and c / sigma^2 for x0, whose limits at the ends are finite.

    Args:
        gamma: largest weight on the x0 error.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        """Checks the range."""
        if self.gamma <= 0:
            raise ValueError(f"gamma must be positive, got {self.gamma} (weighting.gamma)")

    def __call__(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Returns the weight at each level."""
        a, s = alpha.square(), sigma.square()
        signal = a < self.gamma * s  # snr below gamma
        if prediction.name == "eps":
            return torch.where(signal, 1.0, self.gamma * s / a.clamp_min(1e-20))
        if prediction.name == "v":
            return torch.minimum(a, self.gamma * s)
        return torch.where(signal, a / s.clamp_min(1e-20), self.gamma)
