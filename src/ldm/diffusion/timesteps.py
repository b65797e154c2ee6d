"""Timestep grids: num_steps + 1 strictly decreasing times, the last one -1 (clean data)."""

import torch
from jaxtyping import Float64
from torch import Tensor


def _check(num_train_timesteps: int, num_steps: int) -> None:
    if not 1 <= num_steps <= num_train_timesteps:
        raise ValueError(
            f"num_inference_steps must be in 1..{num_train_timesteps}, got {num_steps} (num_inference_steps)"
        )


def _grid(times: Tensor) -> Tensor:
    return torch.cat([times.double(), torch.tensor([-1.0], dtype=torch.float64)])


def leading(num_train_timesteps: int, num_steps: int, offset: int = 0) -> Float64[Tensor, " n"]:
    """Multiples of floor(T / N) plus an offset (Lin et al. 2023, Table 2; SD's grid has offset 1).

    The offset is left out where it would lead past the last time.
    """
    _check(num_train_timesteps, num_steps)
    times = torch.arange(num_steps).flip(0) * (num_train_timesteps // num_steps)
    return _grid(times + min(offset, num_train_timesteps - 1 - int(times[0])))


def trailing(num_train_timesteps: int, num_steps: int) -> Float64[Tensor, " n"]:
    """round(T - i T / N) - 1: starts at the last time (Lin et al. 2023, Table 2)."""
    _check(num_train_timesteps, num_steps)
    i = torch.arange(num_steps, dtype=torch.float64)
    return _grid((num_train_timesteps - i * num_train_timesteps / num_steps).round() - 1.0)


def linspace(num_train_timesteps: int, num_steps: int) -> Float64[Tensor, " n"]:
    """N real-valued times evenly spaced from T - 1 to 0, both included (T - 1 alone for one step)."""
    _check(num_train_timesteps, num_steps)
    return _grid(torch.linspace(num_train_timesteps - 1, 0, num_steps, dtype=torch.float64))
