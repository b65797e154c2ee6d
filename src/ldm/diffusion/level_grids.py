"""Grids of sampling times that are chosen by their noise levels; sigma is sigma_t / alpha_t here."""

import torch
from jaxtyping import Float64
from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.timesteps import check_num_steps, closed
from ldm.utils.errors import UserError


def karras(
    num_train_timesteps: int,
    num_steps: int,
    *,
    schedule: NoiseSchedule,
    rho: float = 7.0,
    final: float = -1.0,
) -> Float64[Tensor, " n"]:
    """sigma^(1/rho) equally spaced from T-1 to 0 (Karras et al. 2022, arXiv:2206.00364, Eq. 5).

    At zero terminal SNR the first time is T-1 and the formula starts from the level of T-2. N = 1: T-1.

    Args:
        num_train_timesteps: T.
        num_steps: N, 1..T.
        schedule: noise levels.
        rho: how much the levels are drawn to the low end.
        final: target of the last step; -1 is clean.

    Raises:
        ValueError: if rho is not positive or N out of range.
    """
    if not rho > 0:
        raise UserError(f"rho must be positive, got {rho}")
    check_num_steps(num_train_timesteps, num_steps)
    high, low = _ends(schedule, num_train_timesteps, 0.0)
    share = torch.linspace(0, 1, max(num_steps, 2), dtype=torch.float64, device="cpu")[:num_steps]
    sigma = torch.lerp(torch.exp(high / rho), torch.exp(low / rho), share) ** rho
    return _from_log_sigma(schedule, num_train_timesteps, sigma.log(), final)


def exponential(
    num_train_timesteps: int, num_steps: int, *, schedule: NoiseSchedule, final: float = -1.0
) -> Float64[Tensor, " n"]:
    """log sigma equally spaced from T-1 to 0, then the final time (k-diffusion, Crowson 2022).

    At zero terminal SNR the first time is T-1 and the rest starts from the level of T-2. N = 1: T-1.

    Args:
        num_train_timesteps: T.
        num_steps: N, 1..T.
        schedule: noise levels.
        final: target of the last step; -1 is clean.

    Raises:
        ValueError: if N is out of range.
    """
    check_num_steps(num_train_timesteps, num_steps)
    high, low = _ends(schedule, num_train_timesteps, 0.0)
    share = torch.linspace(0, 1, max(num_steps, 2), dtype=torch.float64, device="cpu")[:num_steps]
    return _from_log_sigma(schedule, num_train_timesteps, torch.lerp(high, low, share), final)


def log_snr(
    num_train_timesteps: int, num_steps: int, *, schedule: NoiseSchedule, final: float = 0.0
) -> Float64[Tensor, " n"]:
    """All N + 1 times equally spaced in the log-SNR (Lu et al. 2022, arXiv:2206.00927, section 3.4).

    At zero terminal SNR the first time is T-1 and the formula starts from the level of T-2.

    Args:
        num_train_timesteps: T.
        num_steps: N, 1..T.
        schedule: noise levels.
        final: target of the last step, above -1: clean data has no finite log-SNR.

    Raises:
        ValueError: if N or final is out of range.
    """
    if not final > -1:
        raise UserError(f"final must be above -1, got {final}")
    check_num_steps(num_train_timesteps, num_steps)
    high, low = _ends(schedule, num_train_timesteps, final)
    share = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64, device="cpu")[:-1]
    return _from_log_sigma(schedule, num_train_timesteps, torch.lerp(high, low, share), final)


# Sabour et al. 2024, arXiv:2404.14507, Stable Diffusion 1.5, from the authors' page
PUBLISHED = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)


def align_your_steps(
    num_train_timesteps: int, num_steps: int, *, schedule: NoiseSchedule, final: float = -1.0
) -> Float64[Tensor, " n"]:
    """The levels found for Stable Diffusion 1.5 by Sabour et al. 2024 (arXiv:2404.14507).

    For other N than 10 their logarithms are interpolated linearly over the step's number.

    Args:
        num_train_timesteps: T.
        num_steps: N, 1..T.
        schedule: noise levels.
        final: target of the last step, in place of the last level; -1 is clean.

    Raises:
        ValueError: if N is out of range, or the schedule has not the levels.
    """
    check_num_steps(num_train_timesteps, num_steps)
    levels = torch.tensor(PUBLISHED, dtype=torch.float64, device="cpu").log()
    place = torch.arange(num_steps, dtype=torch.float64, device="cpu") * (len(PUBLISHED) - 1) / num_steps
    i = place.long()
    log_sigma = torch.lerp(levels[i], levels[i + 1], place - i)
    return _from_log_sigma(schedule, num_train_timesteps, log_sigma, final)


def explicit(
    num_train_timesteps: int,
    num_steps: int,
    *,
    schedule: NoiseSchedule,
    times: list[float] | None = None,
    sigmas: list[float] | None = None,
    final: float = -1.0,
) -> Float64[Tensor, " n"]:
    """The times, or those of the levels sigma, that are given.

    Args:
        num_train_timesteps: T.
        num_steps: N, which must be their number.
        schedule: noise levels.
        times: N decreasing times.
        sigmas: or N decreasing levels.
        final: target of the last step; -1 is clean.

    Raises:
        ValueError: if not exactly one list of N numbers is given.
    """
    if (times is None) == (sigmas is None):
        raise UserError("give either times or sigmas, a list")
    given = torch.tensor(times or sigmas, dtype=torch.float64, device="cpu")
    if len(given) != num_steps:
        raise UserError(
            f"the list has {len(given)} entries for {num_steps} steps: num_inference_steps={len(given)}"
        )
    if sigmas is not None and not bool((given > 0).all()):
        raise UserError(
            f"sigmas must be positive, got {float(given[~(given > 0)][0])}: the last step goes to 0 by itself"
        )
    found = given if sigmas is None else schedule.time(-2 * given.log())
    return closed(found, final, num_train_timesteps)


def _ends(schedule: NoiseSchedule, num_train_timesteps: int, final: float) -> tuple[Tensor, Tensor]:
    """log sigma at the top, or just below where that is infinite, and at the end."""
    top = num_train_timesteps - (2.0 if schedule.zero_terminal_snr else 1.0)
    high, low = -schedule.log_snr(torch.tensor([top, final], dtype=torch.float64, device="cpu")) / 2
    return high, low


def _from_log_sigma(
    schedule: NoiseSchedule, num_train_timesteps: int, log_sigma: Tensor, final: float
) -> Tensor:
    """The grid of levels; the first is exactly T-1 if it is the top."""
    times = schedule.time(-2 * log_sigma)
    if schedule.zero_terminal_snr or times[0] > num_train_timesteps - 1 - 1e-6:
        times = torch.cat([torch.full_like(times[:1], num_train_timesteps - 1), times[1:]])
    return closed(times, final, num_train_timesteps)
