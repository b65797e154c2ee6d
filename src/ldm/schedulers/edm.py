"""Euler, Heun and midpoint steps in sigma / alpha or along straight paths, with churn or ancestral noise."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ldm.diffusion.prediction import Denoised
from ldm.schedulers.base import (
    Denoise,
    Noise,
    NoiseSchedule,
    check_share,
    down_time,
    levels,
    move,
    renoise,
    time_between,
)
from ldm.schedulers.long_steps import midpoint_helps, trapezoid_helps

MAX_CHURN = 2**0.5 - 1


@dataclass(frozen=True, kw_only=True)
class Churn:
    """Noise added before a step (Karras et al. 2022, arXiv:2206.00364, Alg. 2, lines 4 to 6).

    Args:
        churn: gamma_i of the paper, S_churn divided by the number of steps: sigma / alpha grows by it.
        churn_min: S_min, sigma / alpha below which nothing is added.
        churn_max: S_max, sigma / alpha above which nothing is added; null for no bound.
        noise_scale: S_noise, standard deviation of the added noise.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float | None = None
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        check_share("churn", self.churn, MAX_CHURN)
        if not self.noise_scale > 0:
            raise ValueError(f"noise_scale must be positive, got {self.noise_scale}")

    @property
    def stochastic(self) -> bool:
        """True if a step draws noise."""
        return self.churn > 0

    def churned(
        self, schedule: NoiseSchedule, x: Tensor, t: Tensor, s: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Data and time after the noise of the step from t to s was added, no later than T-1."""
        if self.churn == 0.0:
            return x, t
        log_snr, high = schedule.log_snr(t), schedule.num_train_timesteps - 1
        sigma = torch.exp(-log_snr / 2)
        inside = (sigma >= self.churn_min) & (sigma <= (self.churn_max or torch.inf)) & torch.isfinite(sigma)
        factor = 2 * math.log1p(self.churn)  # no tensor: its default is float32
        up = torch.where(inside, schedule.time(log_snr - factor), t.to(log_snr)).clamp(max=high)
        return renoise(schedule, x, t, up, self.noise_scale * noise(t, s)), up


@dataclass(frozen=True, kw_only=True)
class Euler(Churn):
    """Euler's method in sigma / alpha: DDIM, if nothing is added before the step."""

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    source: ClassVar[str] = "Karras et al. 2022, arXiv:2206.00364"

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
        """x_s / alpha_s = x_t / alpha_t + (sigma_s / alpha_s - sigma_t / alpha_t) eps (Alg. 2, line 8)."""
        x, t = self.churned(schedule, x, t, s, noise)
        return move(schedule, x, denoise(x, t).x0, t, s), None


@dataclass(frozen=True, kw_only=True)
class Heun(Churn):
    """Heun's method: the mean of the slopes at both ends.

    Args:
        path: "sigma": the slope of x / alpha over sigma / alpha, eps (Karras et al. 2022, Alg. 1);
            "flow": that of x / (alpha + sigma) over sigma / (alpha + sigma), eps - x0, on any schedule.
    """

    path: Literal["sigma", "flow"] = "sigma"

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2
    source: ClassVar[str] = "Karras et al. 2022, arXiv:2206.00364"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path not in ("sigma", "flow"):
            raise ValueError(f"path must be sigma or flow, got {self.path}")

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
        """Alg. 2, lines 7 to 11: Euler's step and half the change of the slope.

        Without the latter to clean data and, in sigma, where it makes the step worse (`long_steps`).
        """
        x, t = self.churned(schedule, x, t, s, noise)
        start = denoise(x, t)
        x_s = move(schedule, x, start.x0, t, s)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(schedule, t, x), levels(schedule, s, x)
        if self.path == "sigma":
            usable = (sigma_s > 0) & trapezoid_helps(schedule, t, s, x)
            width = alpha_s * (sigma_s / alpha_s - sigma_t / alpha_t)
        else:
            total = alpha_s + sigma_s
            usable, width = sigma_s > 0, total * (sigma_s / total - sigma_t / (alpha_t + sigma_t))
        if not usable.any():
            return x_s, None
        change = self._slope(denoise(x_s, s)) - self._slope(start)
        return torch.where(usable, x_s + torch.where(usable, width, 0.0) / 2 * change, x_s), None

    def _slope(self, found: Denoised) -> Tensor:
        return found.eps if self.path == "sigma" else found.eps - found.x0


@dataclass(frozen=True, kw_only=True)
class DPM2(Churn):
    """DPM-Solver-2: the slope at the middle of the log-SNR (Lu et al. 2022, arXiv:2206.00927, Alg. 1).

    Args:
        eta: share of the ancestral noise.
    """

    eta: float = 0.0

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2
    source: ClassVar[str] = "Lu et al. 2022, arXiv:2206.00927"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("eta", self.eta)

    @property
    def stochastic(self) -> bool:
        """True if a step draws noise."""
        return self.eta > 0 or self.churn > 0

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
        """Alg. 1 with r = 1/2, to the level below s from which the noise raises the data to s.

        Euler's step where the midpoint makes it worse (`long_steps`).
        """
        x, t = self.churned(schedule, x, t, s, noise)
        start, d = denoise(x, t), down_time(schedule, t, s, self.eta)
        x_d, middle = move(schedule, x, start.x0, t, d), time_between(schedule, t, d, 0.5)
        (alpha_t, sigma_t), (alpha_d, sigma_d) = levels(schedule, t, x), levels(schedule, d, x)
        usable = (sigma_d > 0) & midpoint_helps(schedule, t, middle, d, x)
        if usable.any():
            found = denoise(move(schedule, x, start.x0, t, middle), middle)
            width = torch.where(usable, alpha_d * (sigma_d / alpha_d - sigma_t / alpha_t), 0.0)
            x_d = torch.where(usable, x_d + width * (found.eps - start.eps), x_d)
        return (renoise(schedule, x_d, d, s, noise(t, s)) if self.eta else x_d), None
