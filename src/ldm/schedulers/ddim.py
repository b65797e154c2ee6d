"""DDIM, deterministic at eta = 0 and DDPM's ancestral sampling at eta = 1, and its inversion."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.schedulers.base import Denoise, Noise, NoiseSchedule, check_share, levels, snr_ratio
from ldm.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DDIM:
    """Denoising diffusion implicit model (Song et al. 2021, arXiv:2010.02502).

    In sigma / alpha it is Euler's method at eta = 0 and Euler's ancestral method at eta = 1.

    Args:
        eta: share of the ancestral noise, 0 (none) to 1 (DDPM).
    """

    eta: float = 0.0

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    source: ClassVar[str] = "Song et al. 2021, arXiv:2010.02502"

    def __post_init__(self) -> None:
        check_share("eta", self.eta)

    @property
    def stochastic(self) -> bool:
        """True if a step draws noise."""
        return self.eta > 0

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
        """One step x_t -> x_s (Eq. 12) with variance eta^2 beta-tilde (Eq. 16). See `Scheduler`."""
        found = denoise(x, t)
        alpha_s, sigma_s = levels(schedule, s, x)
        if self.eta == 0.0:
            return alpha_s * found.x0 + sigma_s * found.eps, None
        ratio, drop = snr_ratio(schedule, t, s, x)
        kept, fresh = 1 - self.eta**2 + self.eta**2 * ratio, self.eta**2 * drop  # shares of sigma_s^2, sum 1
        return alpha_s * found.x0 + sigma_s * (kept.sqrt() * found.eps + fresh.sqrt() * noise(t, s)), None


def ddim_invert(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x: Float[Tensor, "b ..."],
    timesteps: Float[Tensor, " n"],
    iterations: int = 1,
) -> Float[Tensor, "b ..."]:
    """Data at the first of the times that DDIM brings to x at the last of them, one after the other.

    The noise in x_t is first taken to be what the denoiser finds in x_s at time t (Song et al. 2021, section
    4.3); each iteration looks again at the x_t found (fixed-point iteration, Pan et al. 2023,
    arXiv:2309.04907, Eq. 9), which makes the inversion exact where it converges.

    Args:
        denoise: maps (x_t, t) to the estimates (x0, eps).
        schedule: noise levels.
        x: data at time timesteps[-1].
        timesteps: a sampling grid, strictly decreasing.
        iterations: evaluations for each step, at least 1.

    Raises:
        ValueError: if iterations is below 1.
    """
    if iterations < 1:
        raise UserError(f"iterations must be at least 1, got {iterations}")
    times = timesteps.to(x.device, torch.float32 if x.device.type == "mps" else torch.float64)
    for i in range(len(times) - 1, 0, -1):
        (s, t), x_s = (times[i : i + 1], times[i - 1 : i]), x
        alpha_s, sigma_s = levels(schedule, s, x)
        alpha_t, sigma_t = levels(schedule, t, x)
        x = alpha_t / alpha_s * x_s  # the noise that it lacks is what is looked for
        for _ in range(iterations):
            eps = denoise(x, t).eps
            x = alpha_t / alpha_s * (x_s - sigma_s * eps) + sigma_t * eps
    return x
