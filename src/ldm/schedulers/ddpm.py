"""DDPM ancestral sampling (Ho et al. 2020, arXiv:2006.11239)."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ldm.diffusion.process import Denoise
from ldm.diffusion.schedule import NoiseSchedule
from ldm.schedulers.base import clip


@dataclass(frozen=True, kw_only=True)
class DDPM:
    """The posterior q(x_s | x_t, x0) with the estimated x0, between any two times.

    Args:
        variance: "small" is the posterior's variance, "large" that of q(x_t | x_s); the last step adds no noise.
        clip_x0: limit of |x0| for pixels in [-1, 1]; None for latents.
    """

    variance: Literal["small", "large"] = "small"
    clip_x0: float | None = None

    def __post_init__(self) -> None:
        """Checks the choice."""
        if self.variance not in ("small", "large"):
            raise ValueError(f"variance must be 'small' or 'large', got {self.variance!r} (scheduler.variance)")

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
        """One step x_t -> x_s (Eq. 7 for the mean; Sec. 3.2 for the variances)."""
        alpha_t, sigma_t = schedule(t, x.ndim)
        alpha_s, sigma_s = schedule(s, x.ndim)
        x0 = clip(denoise(x, t).x0, self.clip_x0)
        ratio = alpha_t / alpha_s
        beta = (1.0 - ratio**2).clamp_min(0.0)  # variance of q(x_t | x_s)
        mean = alpha_s * beta / sigma_t**2 * x0 + ratio * (sigma_s / sigma_t) ** 2 * x
        small = beta * (sigma_s / sigma_t) ** 2
        variance = small if self.variance == "small" else beta * (sigma_s > 0)
        return mean + variance.sqrt() * noise, None
