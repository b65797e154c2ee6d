"""Transitions between noise levels that the solvers share."""

import torch
from torch import Tensor

from ldm.diffusion.prediction import Denoise
from ldm.diffusion.sampling import Noise, Scheduler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.utils.errors import UserError

__all__ = [
    "Denoise",
    "Noise",
    "NoiseSchedule",
    "Scheduler",
    "check_share",
    "down_time",
    "half_log_snr",
    "levels",
    "move",
    "renoise",
    "snr_ratio",
    "time_between",
]


def check_share(name: str, value: float, high: float = 1.0) -> None:
    """Checks an option of a solver.

    Raises:
        ValueError: unless it is in [0, high].
    """
    if not 0.0 <= value <= high:
        raise UserError(f"{name} must be in [0, {high:g}], got {value}")


def _dtype(x: Tensor) -> torch.dtype:
    """Dtype of a step's arithmetic: float32, or float64 for float64 data."""
    return torch.promote_types(x.dtype, torch.float32)


def levels(schedule: NoiseSchedule, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha_t, sigma_t), each (b, 1, .., 1), for data x."""
    return schedule(t, x.ndim, _dtype(x))


def half_log_snr(schedule: NoiseSchedule, t: Tensor, x: Tensor) -> Tensor:
    """lambda_t = log(alpha_t / sigma_t) in float64, (b, 1, .., 1), for data x."""
    return schedule.log_snr(t).view(-1, *[1] * (x.ndim - 1)) / 2


def time_between(schedule: NoiseSchedule, t: Tensor, s: Tensor, share: float) -> Tensor:
    """The time at a share of the way from t to s in the log-SNR; s where that is infinite."""
    start, end = schedule.log_snr(t), schedule.log_snr(s)
    between = schedule.time(start + share * (end - start))
    return torch.where(torch.isfinite(end - start), between, s)


def snr_ratio(schedule: NoiseSchedule, t: Tensor, s: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """SNR_t / SNR_s, 0 if t is pure noise or s clean, and 1 minus it: (b, 1, .., 1), without cancellation.

    sigma_s^2 times the second is the variance of x_s given x_t and x0 (beta-tilde of Ho et al. 2020, Eq. 7),
    sigma_t^2 times it that of x_t given x_s (1 - alpha_t^2 / alpha_s^2, their beta_t). At t = s: (1, 0).
    """
    noisier, cleaner = (half_log_snr(schedule, time, x) for time in (t, s))
    log_ratio = torch.where(noisier == cleaner, 0.0, 2 * (noisier - cleaner))
    return log_ratio.exp().to(_dtype(x)), -log_ratio.expm1().to(_dtype(x))


def move(schedule: NoiseSchedule, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s with the noise that x = x_t contains beside x0: alpha_s x0 + sigma_s / sigma_t (x - alpha_t x0)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(schedule, t, x), levels(schedule, s, x)
    return alpha_s * x0 + sigma_s * ((x - alpha_t * x0) / sigma_t)


def renoise(schedule: NoiseSchedule, x: Tensor, s: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """x_t given x = x_s for t >= s, the forward process (Ho et al. 2020, Eq. 2), by normal numbers z."""
    (alpha_t, sigma_t), (alpha_s, _) = levels(schedule, t, x), levels(schedule, s, x)
    _, drop = snr_ratio(schedule, t, s, x)
    kept = torch.where(alpha_s > 0, alpha_t / alpha_s, 1.0)  # pure noise stays what it is
    return kept * x + sigma_t * drop.sqrt() * z


def down_time(schedule: NoiseSchedule, t: Tensor, s: Tensor, eta: float) -> Tensor:
    """The time d <= s that noise of eta^2 times the posterior's variance raises to the level of s.

    SNR_d = SNR_s / (1 - eta^2 (1 - SNR_t / SNR_s)): the "sigma_down" of k-diffusion (Crowson 2022).
    """
    noisier, cleaner = schedule.log_snr(t), schedule.log_snr(s)
    ratio = torch.where(torch.isfinite(cleaner - noisier), torch.exp(noisier - cleaner), 0.0)
    d = schedule.time(cleaner - torch.log(1 - eta**2 * (1 - ratio)))
    return torch.where(torch.isinf(cleaner), s.to(d.dtype), d) if eta else s
