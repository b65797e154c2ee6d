"""DDIM, deterministic at eta = 0 and DDPM's ancestral sampling at eta = 1."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.prediction import Denoise
from ldm.diffusion.schedule import NoiseSchedule
from ldm.schedulers.base import check_clip, clip, snr_ratio


@dataclass(frozen=True, kw_only=True)
class DDIM:
    """Denoising diffusion implicit model (Song et al. 2021, arXiv:2010.02502).

    Args:
        eta: share of the ancestral noise, 0 (none) to 1 (DDPM).
        clip_x0: bound of the estimate of x0, for pixels in [-1, 1]; null for latents.
    """

    eta: float = 0.0
    clip_x0: float | None = None

    def __post_init__(self) -> None:
        check_clip(self.clip_x0)
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta must be in [0, 1], got {self.eta} (scheduler.eta)")

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
        """One step x_t -> x_s (Eq. 12) with variance eta^2 beta-tilde (Eq. 16). See `Scheduler`."""
        alpha_t, sigma_t = schedule(t, x.ndim)
        alpha_s, sigma_s = schedule(s, x.ndim)
        x0, eps = clip(denoise(x, t), x, alpha_t, sigma_t, self.clip_x0)
        if self.eta == 0.0:
            return alpha_s * x0 + sigma_s * eps, None
        ratio, drop = snr_ratio(schedule, t, s, x.ndim)
        kept, fresh = 1 - self.eta**2 + self.eta**2 * ratio, self.eta**2 * drop  # shares of sigma_s^2, sum 1
        return alpha_s * x0 + sigma_s * (kept.sqrt() * eps + fresh.sqrt() * noise()), None
