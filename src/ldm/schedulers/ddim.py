"""DDIM (Song et al. 2021, arXiv:2010.02502)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ldm.diffusion.process import Denoise
from ldm.diffusion.schedule import NoiseSchedule
from ldm.schedulers.base import clip


@dataclass(frozen=True, kw_only=True)
class DDIM:
    """Non-Markovian steps between any two times.

    Args:
        eta: 0 is deterministic, 1 is DDPM.
        clip_x0: limit of |x0| for pixels in [-1, 1]; None for latents.
    """

    eta: float = 0.0
    clip_x0: float | None = None

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta must be in [0, 1], got {self.eta} (scheduler.eta)")

    def step(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: Any,
        noise: Tensor,
    ) -> tuple[Tensor, Any]:
        """One step x_t -> x_s (Eq. 12, with the variance of Eq. 16 between t and s)."""
        alpha_t, sigma_t = schedule(t, x.ndim)
        alpha_s, sigma_s = schedule(s, x.ndim)
        x0, eps = denoise(x, t)
        if self.clip_x0 is not None:
            x0 = clip(x0, self.clip_x0)
            eps = (x - alpha_t * x0) / sigma_t
        # sigma of Eq. 16: eta (sigma_s / sigma_t) sqrt(1 - alpha_t^2 / alpha_s^2)
        std = self.eta * sigma_s / sigma_t * (1.0 - (alpha_t / alpha_s) ** 2).clamp_min(0.0).sqrt()
        direction = (sigma_s**2 - std**2).clamp_min(0.0).sqrt()
        return alpha_s * x0 + direction * eps + std * noise, None
