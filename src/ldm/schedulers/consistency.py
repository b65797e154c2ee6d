"""Samplers of distilled consistency models: LCM and TCD."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ldm.schedulers.base import Denoise, Noise, NoiseSchedule, check_share, levels, move, renoise


@dataclass(frozen=True, kw_only=True)
class LCM:
    """Multistep sampling of latent consistency models (Luo et al. 2023, arXiv:2310.04378, Alg. 3).

    Args:
        sigma_data: of the boundary condition (Eq. 9 and App. C).
        time_scale: by which times are multiplied in it.
    """

    sigma_data: float = 0.5
    time_scale: float = 10.0

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    source: ClassVar[str] = "Luo et al. 2023, arXiv:2310.04378"

    def __post_init__(self) -> None:
        for name in ("sigma_data", "time_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

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
        """f = c_skip x_t + c_out x0 (Eq. 9), then the noise of s anew (Alg. 3, line 5)."""
        scaled = (self.time_scale * t).view(-1, *[1] * (x.ndim - 1)).square()
        total = scaled + self.sigma_data**2
        found = denoise(x, t).x0
        f = (self.sigma_data**2 / total).to(found.dtype) * x + (scaled / total).sqrt().to(found.dtype) * found
        alpha_s, sigma_s = levels(schedule, s, x)
        return alpha_s * f + sigma_s * noise(t, s), None


@dataclass(frozen=True, kw_only=True)
class TCD:
    """Sampling of trajectory consistency models (Zheng et al. 2024, arXiv:2402.19159, Alg. 4).

    Args:
        gamma: share of the noise: at 0 DDIM's step, at 1 as in multistep consistency sampling.
    """

    gamma: float = 0.3

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    source: ClassVar[str] = "Zheng et al. 2024, arXiv:2402.19159"

    def __post_init__(self) -> None:
        check_share("gamma", self.gamma)

    @property
    def stochastic(self) -> bool:
        """True if a step draws noise."""
        return self.gamma > 0

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
        """To s' = (1 - gamma) s (Eq. 24), then noise up to s (Eq. 25)."""
        below = ((1 - self.gamma) * s).floor().where(s > 0, s)
        x_b = move(schedule, x, denoise(x, t).x0, t, below)
        return (renoise(schedule, x_b, below, s, noise(t, s)) if self.gamma else x_b), None
