"""Noise schedules (alpha_t, sigma_t) of variance-preserving diffusion: x_t = alpha_t x0 + sigma_t eps."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


@lru_cache(maxsize=64)
def _table(alphas_cumprod: tuple[float, ...], device: torch.device) -> Tensor:
    """alpha-bar at t = -1, 0, 1, ... in float64."""
    return torch.tensor((1.0, *alphas_cumprod), dtype=torch.float64, device=device)


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """Noise levels at real-valued times in [-1, T - 1]; t = -1 is clean data.

    Between the integers alpha-bar = alpha_t^2 is interpolated linearly.

    Args:
        alphas_cumprod: alpha-bar at t = 0 .. T-1, in [0, 1), strictly decreasing.
    """

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks the table."""
        table = (1.0, *self.alphas_cumprod)
        if any(a <= b for a, b in zip(table, table[1:], strict=False)) or table[-1] < 0.0:
            raise ValueError("alphas_cumprod must decrease strictly within [0, 1) (schedule.alphas_cumprod)")

    @property
    def num_train_timesteps(self) -> int:
        """Length T of the table."""
        return len(self.alphas_cumprod)

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether nothing of the data is left at the last time."""
        return self.alphas_cumprod[-1] == 0.0

    def alpha_bar(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """alpha_t^2 in float64 at times t."""
        table = _table(self.alphas_cumprod, t.device)
        position = (t.double() + 1.0).clamp(0.0, len(table) - 1.0)
        low = position.floor().long().clamp_max(len(table) - 2)
        return torch.lerp(table[low], table[low + 1], position - low)

    def __call__(self, t: Float[Tensor, " b"], ndim: int = 1) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) in float32 with trailing axes of length 1 up to `ndim` axes.

        Args:
            t: times in [-1, T - 1], (b,).
            ndim: axes of the tensors that the levels multiply.
        """
        alpha_bar = self.alpha_bar(t).view(-1, *[1] * (ndim - 1))
        return alpha_bar.sqrt().float(), (1.0 - alpha_bar).sqrt().float()

    def log_snr(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """log(alpha_t^2 / sigma_t^2) in float64: +inf at t = -1, -inf where alpha_t = 0."""
        alpha_bar = self.alpha_bar(t)
        return alpha_bar.log() - (1.0 - alpha_bar).log()

    def time(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The time with this log-SNR in float64, the inverse of `log_snr`; clamped to [-1, T - 1]."""
        table = _table(self.alphas_cumprod, log_snr.device)
        alpha_bar = torch.sigmoid(log_snr.double())
        high = (len(table) - torch.searchsorted(table.flip(0), alpha_bar, right=True)).clamp(1, len(table) - 1)
        low = high - 1
        return (low + (table[low] - alpha_bar) / (table[low] - table[high]) - 1.0).clamp(-1.0, len(table) - 2.0)


def _from_betas(betas: Tensor) -> NoiseSchedule:
    return NoiseSchedule(alphas_cumprod=tuple((1.0 - betas).cumprod(0).tolist()))


def linear(num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
    """Linear betas (Ho et al. 2020, Sec. 4)."""
    return _from_betas(torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64))


def scaled_linear(
    num_train_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> NoiseSchedule:
    """Betas whose square roots are linear: Stable Diffusion's schedule (Rombach et al. 2022)."""
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64)
    return _from_betas(roots**2)


def cosine(num_train_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    """Cosine alpha-bar (Nichol & Dhariwal 2021, Eq. 17)."""
    times = torch.arange(num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps
    f = torch.cos((times + offset) / (1.0 + offset) * math.pi / 2.0) ** 2
    return _from_betas((1.0 - f[1:] / f[:-1]).clamp_max(max_beta))


def zero_snr(base: NoiseSchedule) -> NoiseSchedule:
    """A schedule shifted and scaled so that the last time has no signal (Lin et al. 2023, Alg. 1)."""
    roots = torch.tensor(base.alphas_cumprod, dtype=torch.float64).sqrt()
    first, last = roots[0], roots[-1]
    table = ((roots - last) * first / (first - last)) ** 2
    return NoiseSchedule(alphas_cumprod=(*table[:-1].tolist(), 0.0))
