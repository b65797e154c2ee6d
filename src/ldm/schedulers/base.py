"""What the solvers share: the protocol and two small formulas."""

from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.prediction import Denoised, noise_in
from ldm.diffusion.sampling import Scheduler
from ldm.diffusion.schedule import NoiseSchedule

__all__ = ["Scheduler", "check_clip", "clip", "snr_ratio"]


def snr_ratio(
    schedule: NoiseSchedule, t: Float[Tensor, " #b"], s: Float[Tensor, " #b"], ndim: int
) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
    """SNR_t / SNR_s, 0 if t is pure noise or s clean, and 1 minus it: (b, 1, .., 1), without cancellation.

    sigma_s^2 times the second is the variance of x_s given x_t and x0 (beta-tilde of Ho et al. 2020, Eq. 7),
    sigma_t^2 times it that of x_t given x_s (1 - alpha_t^2 / alpha_s^2, their beta_t).
    """
    log_ratio = (schedule.log_snr(t) - schedule.log_snr(s)).view(-1, *[1] * (ndim - 1))
    return log_ratio.exp().float(), -log_ratio.expm1().float()


def check_clip(clip_x0: float | None) -> None:
    """Checks the option `clip_x0` of a solver.

    Raises:
        ValueError: unless it is None or positive.
    """
    if clip_x0 is not None and not clip_x0 > 0:
        raise ValueError(f"clip_x0 must be positive or null, got {clip_x0} (scheduler.clip_x0)")


def clip(denoised: Denoised, x: Tensor, alpha: Tensor, sigma: Tensor, clip_x0: float | None) -> Denoised:
    """The estimates with x0 in [-clip_x0, clip_x0] and eps such that x = alpha x0 + sigma eps still holds."""
    if clip_x0 is None:
        return denoised
    x0 = denoised.x0.clamp(-clip_x0, clip_x0)
    return Denoised(x0, noise_in(x, x0, alpha, sigma))
