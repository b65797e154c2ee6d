"""Noise schedules: (alpha_t, sigma_t) for real-valued t; those from a table of alpha-bar = alpha_t^2."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.utils.errors import UserError


@lru_cache(maxsize=32)
def _log_snr_table(alphas_cumprod: tuple[float, ...], device: torch.device) -> Tensor:
    """Log-SNR of each entry, (T,), on the device: float64, float32 where the device has no float64."""
    with torch.inference_mode(False):  # the table outlives the caller's inference mode
        alpha_bar = torch.tensor(alphas_cumprod, dtype=torch.float64, device="cpu")
        log_snr = alpha_bar.log() - torch.log1p(-alpha_bar)
        return log_snr.to(device, torch.float32 if device.type == "mps" else torch.float64)


class NoiseSchedule(ABC):
    """Noise levels x_t = alpha_t x0 + sigma_t eps for real times t in [-1, T-1]; t = -1 is clean data.

    The log-SNR, log(alpha_t^2 / sigma_t^2), is continuous and strictly decreasing in t; outside [-1, T-1] it
    is NaN. Kinds of schedules differ in it and in the scale of x_t.
    """

    scales_input: ClassVar[bool] = False
    """Whether the net reads x_t / `spread`, for levels that grow without bound."""

    @property
    @abstractmethod
    def num_train_timesteps(self) -> int:
        """T, the number of noise levels."""

    @abstractmethod
    def log_snr(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """log(alpha_t^2 / sigma_t^2) in float64: +inf at t = -1, -inf at pure noise."""

    @abstractmethod
    def time(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The time of a log-SNR in float64, inverse of `log_snr`; T-1 for more noise than there is."""

    @abstractmethod
    def levels(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) of a log-SNR."""

    def rate(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """-d log_snr / dt at times t >= 0, (b,), by differences in float64; +inf at pure noise."""
        if t.device.type == "mps":  # which has no float64, and float32 leaves no digits to a difference
            return self.rate(t.cpu()).float().to(t.device)
        t, h = t.double(), 1e-4
        low = torch.where(t < 1, t, t - h)  # forward near t = 0, where the slope jumps, backward elsewhere
        return (self.log_snr(low) - self.log_snr(torch.where(t < 1, t + h, t))) / h

    @property
    def zero_terminal_snr(self) -> bool:
        """True if the last level is pure noise, alpha = 0."""
        return math.isinf(self.log_snr(torch.tensor([self.num_train_timesteps - 1.0])).item())

    def __call__(
        self, t: Float[Tensor, " b"], ndim: int, dtype: torch.dtype = torch.float32
    ) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
        """(alpha_t, sigma_t), each (b, 1, .., 1) with ndim axes.

        Args:
            t: times in [-1, T-1], (b,).
            ndim: number of axes of the tensors that they will scale.
            dtype: of the result.
        """
        alpha, sigma = self.levels(self.log_snr(t).view(-1, *[1] * (ndim - 1)))
        return alpha.to(dtype), sigma.to(dtype)

    def spread(
        self, t: Float[Tensor, " b"], ndim: int, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "b ..."]:
        """sqrt(alpha_t^2 + sigma_t^2): the standard deviation of x_t for data of unit variance."""
        alpha, sigma = self(t, ndim, torch.float64 if t.device.type != "mps" else dtype)
        return torch.hypot(alpha, sigma).to(dtype)


@dataclass(frozen=True, kw_only=True)
class Tabulated(NoiseSchedule):
    """Variance-preserving noise levels, alpha_t^2 + sigma_t^2 = 1, from a table.

    Entry i of the table is t = i, and t = -1 is exactly (1, 0). In between the log-SNR is interpolated
    linearly. Where it is infinite at one end of an interval, the ratio that vanishes there is linear:
    sigma/alpha from t = -1 to 0 and, at zero terminal SNR, alpha/sigma over the last interval.

    Args:
        alphas_cumprod: alpha_t^2 for t = 0..T-1, strictly decreasing, in (0, 1); the last may be 0.
    """

    alphas_cumprod: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        a = self.alphas_cumprod
        if len(a) < 3:
            raise ValueError(f"num_train_timesteps must be at least 3, got {len(a)}")
        if not (a[0] < 1.0 and a[-1] >= 0.0 and all(x > y for x, y in pairwise(a))):
            raise ValueError(f"alphas_cumprod must decrease strictly within [0, 1), got {a[0]} ... {a[-1]}")

    @property
    def num_train_timesteps(self) -> int:
        """T, the length of the table."""
        return len(self.alphas_cumprod)

    @property
    def zero_terminal_snr(self) -> bool:
        """True if the last level is pure noise, (0, 1)."""
        return self.alphas_cumprod[-1] == 0.0

    def levels(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) with alpha^2 + sigma^2 = 1."""
        return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()

    def spread(
        self, t: Float[Tensor, " b"], ndim: int, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "b ..."]:
        """1, exactly."""
        return torch.ones(len(t), *[1] * (ndim - 1), dtype=dtype, device=t.device)

    def log_snr(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """log(alpha_t^2 / sigma_t^2) in float64: +inf at t = -1, -inf at zero terminal SNR."""
        table = _log_snr_table(self.alphas_cumprod, t.device)
        t, last = t.to(table.dtype), self._last_finite
        i = t.clamp(0, last - 1).long()
        value = table[i] + (t - i) * (table[i + 1] - table[i])
        value = torch.where(t < 0, table[0] - 2 * torch.log1p(t), value)
        if self.zero_terminal_snr:
            value = torch.where(t > last, table[last] + 2 * torch.log(last + 1 - t), value)
        return torch.where(t > self.num_train_timesteps - 1, torch.nan, value)

    def time(self, log_snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The time of a log-SNR in float64, inverse of `log_snr`; T-1 for more noise than the table has."""
        table = _log_snr_table(self.alphas_cumprod, log_snr.device)
        value, last = log_snr.to(table.dtype), self._last_finite
        i = torch.searchsorted(-table[: last + 1], -value.contiguous()).sub(1).clamp(0, last - 1)
        t = i + ((value - table[i]) / (table[i + 1] - table[i])).clamp(0, 1)
        t = torch.where(value > table[0], torch.expm1((table[0] - value) / 2), t)
        if self.zero_terminal_snr:
            t = torch.where(value < table[last], last + 1 - torch.exp((value - table[last]) / 2), t)
        return t

    @property
    def _last_finite(self) -> int:
        """The last time with a finite log-SNR."""
        return self.num_train_timesteps - (2 if self.zero_terminal_snr else 1)


def _from_betas(betas: Tensor) -> Tabulated:
    return Tabulated(alphas_cumprod=tuple((1 - betas).cumprod(0).tolist()))


def _check_betas(beta_start: float, beta_end: float) -> None:
    if not 0.0 < beta_start <= beta_end < 1.0:
        raise UserError(f"need 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}")


def linear(*, num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tabulated:
    """beta_t linear in t (Ho et al. 2020, arXiv:2006.11239, section 4)."""
    _check_betas(beta_start, beta_end)
    return _from_betas(
        torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64, device="cpu")
    )


def scaled_linear(
    *, num_train_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Tabulated:
    """sqrt(beta_t) linear in t, Stable Diffusion's schedule (Rombach et al. 2022, arXiv:2112.10752)."""
    _check_betas(beta_start, beta_end)
    ends = (math.sqrt(beta_start), math.sqrt(beta_end))
    return _from_betas(torch.linspace(*ends, num_train_timesteps, dtype=torch.float64, device="cpu").square())


def sigmoid(
    *, num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, width: float = 6.0
) -> Tabulated:
    """beta_t between its ends along sigmoid(z), z from -width to width (Xu et al. 2022, arXiv:2203.02923)."""
    _check_betas(beta_start, beta_end)
    if not width > 0:
        raise UserError(f"width must be positive, got {width}")
    z = torch.linspace(-width, width, num_train_timesteps, dtype=torch.float64, device="cpu")
    return _from_betas(beta_start + (beta_end - beta_start) * z.sigmoid())


def cosine(*, num_train_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Tabulated:
    """Squared cosine alpha-bar (Nichol & Dhariwal 2021, arXiv:2102.09672, Eq. 17), betas <= max_beta."""
    if not 0.0 < max_beta < 1.0:
        raise UserError(f"max_beta must be in (0, 1), got {max_beta}")
    u = torch.arange(num_train_timesteps + 1, dtype=torch.float64, device="cpu") / num_train_timesteps
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2).square()
    return _from_betas((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def zero_snr(*, base: Tabulated) -> Tabulated:
    """The base schedule with its last level moved to pure noise (Lin et al. 2023, arXiv:2305.08891, Alg. 1).

    alpha_t is shifted so that the last is 0 and scaled so that the first keeps its value.
    """
    alpha = torch.tensor(base.alphas_cumprod, dtype=torch.float64, device="cpu").sqrt()
    alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
    return Tabulated(alphas_cumprod=tuple(alpha.square().tolist()))
