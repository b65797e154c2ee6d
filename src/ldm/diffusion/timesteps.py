"""Grids of sampling times: num_steps times and the final target, strictly decreasing, -1 meaning clean."""

import inspect
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float64
from torch import Tensor

from ldm.diffusion.quadrature import beta_quantiles
from ldm.diffusion.schedule import NoiseSchedule
from ldm.utils.errors import UserError

Grid = Callable[..., Tensor]
"""(num_train_timesteps, num_steps) -> num_steps + 1 times; may have a parameter `schedule` besides."""


def leading(
    num_train_timesteps: int, num_steps: int, *, offset: int = 0, final: float = -1.0
) -> Float64[Tensor, " n"]:
    """Multiples of T // N, from (N-1) (T // N) + offset down to offset (Ho et al. 2020; Song et al. 2021).

    Stable Diffusion 1.x was sampled with offset = 1 and final = 0. The first time can lie well below T-1.
    Where the offset would exceed T-1 (N = T), the stride is the real number that ends there.

    Args:
        num_train_timesteps: T.
        num_steps: N, 1..T.
        offset: added to every time but the final one.
        final: target of the last step; -1 is clean.
    """
    check_num_steps(num_train_timesteps, num_steps)
    stride: float = num_train_timesteps // num_steps
    top = (num_steps - 1) * stride + offset
    if top > num_train_timesteps - 1 > offset and num_steps > 1:  # N = T
        stride = (num_train_timesteps - 1 - offset) / (num_steps - 1)
    return closed(
        torch.arange(num_steps - 1, -1, -1, device="cpu") * stride + offset, final, num_train_timesteps
    )


def trailing(num_train_timesteps: int, num_steps: int, *, final: float = -1.0) -> Float64[Tensor, " n"]:
    """round(T i / N) - 1 for i = N..1, from T-1 down (Lin et al. 2023, arXiv:2305.08891, Table 2).

    Args:
        num_train_timesteps: T.
        num_steps: N, 1..T.
        final: target of the last step; -1 is clean.
    """
    check_num_steps(num_train_timesteps, num_steps)
    i = torch.arange(num_steps, 0, -1, dtype=torch.float64, device="cpu")
    return closed((i * num_train_timesteps / num_steps).round() - 1, final, num_train_timesteps)


def distilled(
    num_train_timesteps: int, num_steps: int, *, original_steps: int = 50, final: float = -1.0
) -> Float64[Tensor, " n"]:
    """N of the M times (T // M) i - 1 of distillation (Luo et al. 2023, arXiv:2310.04378); i = 1..M.

    Those at places floor(M j / N) from the top, j = 0..N-1, as in the authors' code.

    Args:
        num_train_timesteps: T.
        num_steps: N, 1..M.
        original_steps: M, the steps of the solver that the net was distilled from.
        final: target of the last step; -1 is clean.
    """
    if not 1 <= original_steps <= num_train_timesteps:
        raise UserError(f"original_steps must be 1 to {num_train_timesteps}, got {original_steps}")
    check_num_steps(original_steps, num_steps)
    place = torch.arange(num_steps, device="cpu") * original_steps // num_steps
    return closed(
        (original_steps - place) * (num_train_timesteps // original_steps) - 1.0, final, num_train_timesteps
    )


def linspace(num_train_timesteps: int, num_steps: int, *, final: float = -1.0) -> Float64[Tensor, " n"]:
    """N equally spaced times, rounded, from T-1 to 0 (Nichol & Dhariwal 2021, arXiv:2102.09672); N = 1: T-1.

    Args:
        num_train_timesteps: T.
        num_steps: N, 1..T.
        final: target of the last step; -1 is clean.
    """
    check_num_steps(num_train_timesteps, num_steps)
    i = torch.arange(num_steps - 1, -1, -1, dtype=torch.float64, device="cpu")
    last = num_train_timesteps - 1
    times = (i * last / (num_steps - 1)).round() if num_steps > 1 else i + last
    return closed(times, final, num_train_timesteps)


def beta(
    num_train_timesteps: int, num_steps: int, *, a: float = 0.6, b: float = 0.6, final: float = -1.0
) -> Float64[Tensor, " n"]:
    """T-1 times the quantiles 1 - i / N of a beta distribution (Lee et al. 2024, arXiv:2407.12173).

    Args:
        num_train_timesteps: T.
        num_steps: N, 1..T.
        a: below 1 puts more times at the low end.
        b: below 1 puts more times at the high end.
        final: target of the last step; -1 is clean.

    Raises:
        ValueError: if N, a or b is out of range.
    """
    if not (0 < a < 10 and 0 < b < 10):
        raise UserError(f"a and b must be in (0, 10), got {a} and {b}")
    check_num_steps(num_train_timesteps, num_steps)
    share = 1 - torch.arange(num_steps, dtype=torch.float64, device="cpu") / num_steps
    return closed(beta_quantiles(share, a, b) * (num_train_timesteps - 1), final, num_train_timesteps)


def check_grid(timesteps: Tensor, num_train_timesteps: int) -> None:
    """Checks that a list of times can be sampled on.

    Raises:
        ValueError: unless there are at least two times, strictly decreasing, within [-1, T-1].
    """
    times = timesteps.tolist()
    if timesteps.ndim != 1 or len(times) < 2:
        raise UserError(f"timesteps must be a list of two times or more, got shape {tuple(timesteps.shape)}")
    for a, b in pairwise(times):
        if not a > b:
            raise UserError(f"timesteps must decrease strictly, got {a} followed by {b}")
    if not (times[0] <= num_train_timesteps - 1 and times[-1] >= -1):
        raise UserError(
            f"timesteps must lie in [-1, {num_train_timesteps - 1}], got {times[0]} ... {times[-1]}"
        )


def times_of(grid: Grid, schedule: NoiseSchedule, num_steps: int) -> Float64[Tensor, " n"]:
    """The times of a grid on a schedule: num_steps of them and the final target.

    Args:
        grid: called with (num_train_timesteps, num_steps), and with schedule= if it has such a parameter.
        schedule: noise levels.
        num_steps: as many steps are run.

    Raises:
        ValueError: if the times cannot be sampled on or are not num_steps + 1.
    """
    levels = {"schedule": schedule} if "schedule" in inspect.signature(grid).parameters else {}
    times: Tensor = grid(schedule.num_train_timesteps, num_steps, **levels)
    check_grid(times, schedule.num_train_timesteps)
    if len(times) != num_steps + 1:
        raise UserError(f"a grid of {num_steps} steps has {num_steps + 1} times, got {len(times)}")
    return times


def check_num_steps(num_train_timesteps: int, num_steps: int) -> None:
    """Raises ValueError unless the number of steps is in 1..T."""
    if not 1 <= num_steps <= num_train_timesteps:
        raise UserError(f"num_inference_steps must be 1 to {num_train_timesteps}, got {num_steps}")


def closed(times: Tensor, final: float, num_train_timesteps: int) -> Float64[Tensor, " n"]:
    """The grid of the times and the final target.

    Raises:
        ValueError: if it cannot be sampled on.
    """
    grid = torch.cat([times.double(), torch.tensor([final], dtype=torch.float64, device="cpu")])
    check_grid(grid, num_train_timesteps)
    return grid
