"""DDPM's ancestral sampling."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ldm.diffusion.prediction import Denoised
from ldm.schedulers.base import Denoise, Noise, NoiseSchedule, levels, snr_ratio
from ldm.utils.errors import UserError

VARIANCES = ("small", "large", "learned")


@dataclass(frozen=True, kw_only=True)
class DDPM:
    """Ancestral sampling between any two times (Ho et al. 2020, arXiv:2006.11239, Alg. 2).

    Args:
        variance: of the step (section 3.2): "small" is the posterior's beta-tilde, exact for data at a
            point, "large" is beta, exact for standard normal data; "learned" is the net's interpolation
            between them (Nichol & Dhariwal 2021, arXiv:2102.09672, Eq. 15), for nets with twice the output
            channels.
    """

    variance: Literal["small", "large", "learned"] = "small"

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    source: ClassVar[str] = "Ho et al. 2020, arXiv:2006.11239"

    def __post_init__(self) -> None:
        if self.variance not in VARIANCES:
            raise ValueError(f"variance must be one of {VARIANCES}, got {self.variance}")

    def step(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: None,
        noise: Noise,
    ) -> tuple[Tensor, None]:
        """One draw of x_s given x_t and the estimate of x0 (Eq. 7), noiseless at s = -1. See `Scheduler`."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(schedule, t, x), levels(schedule, s, x)
        found, (_, drop) = denoise(x, t), snr_ratio(schedule, t, s, x)
        mean = alpha_s * drop * found.x0 + (alpha_t / alpha_s) * (sigma_s / sigma_t).square() * x
        large = sigma_t * (sigma_s > 0)
        scale = {"small": sigma_s, "large": large}.get(self.variance)
        if scale is None:
            scale = self._learned(found, sigma_s, large)
        return mean + scale * drop.sqrt() * noise(t, s), None

    def _learned(self, found: Denoised, small: Tensor, large: Tensor) -> Tensor:
        """large^v small^(1 - v), v in [0, 1]; 0 at clean data."""
        if found.variance is None:
            raise UserError("variance=learned needs a net with twice the output channels")
        v = ((found.variance + 1) / 2).clamp(0, 1)
        logs = torch.lerp(small.clamp(min=1e-30).log(), large.clamp(min=1e-30).log(), v)
        return torch.where(small > 0, logs.exp(), 0.0)
