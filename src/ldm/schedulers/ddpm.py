"""DDPM's ancestral sampling."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.prediction import Denoise
from ldm.diffusion.schedule import NoiseSchedule
from ldm.schedulers.base import check_clip, clip, snr_ratio


@dataclass(frozen=True, kw_only=True)
class DDPM:
    """Ancestral sampling between any two times (Ho et al. 2020, arXiv:2006.11239, Alg. 2).

    Args:
        variance: of the step (section 3.2): "small" is the posterior's beta-tilde, exact for data at a
            point, "large" is beta, exact for standard normal data.
        clip_x0: bound of the estimate of x0, for pixels in [-1, 1]; null for latents.
    """

    variance: Literal["small", "large"] = "small"
    clip_x0: float | None = None

    def __post_init__(self) -> None:
        check_clip(self.clip_x0)
        if self.variance not in ("small", "large"):
            raise ValueError(f"variance must be small or large, got {self.variance} (scheduler.variance)")

    def step(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        x: Float[Tensor, "b ..."],
        t: Float[Tensor, " #b"],
        s: Float[Tensor, " #b"],
        state: None,
        noise: Callable[[], Tensor],
    ) -> tuple[Float[Tensor, "b ..."], None]:
        """One draw of x_s given x_t and the estimate of x0 (Eq. 7), noiseless at s = -1. See `Scheduler`."""
        alpha_t, sigma_t = schedule(t, x.ndim)
        alpha_s, sigma_s = schedule(s, x.ndim)
        _, drop = snr_ratio(schedule, t, s, x.ndim)
        x0, _ = clip(denoise(x, t), x, alpha_t, sigma_t, self.clip_x0)
        mean = alpha_s * drop * x0 + (alpha_t / alpha_s) * (sigma_s / sigma_t).square() * x
        scale = sigma_s if self.variance == "small" else sigma_t * (sigma_s > 0)
        return mean + scale * drop.sqrt() * noise(), None
