"""Restart: an interval of noise levels is sampled again after noise was added."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ldm.schedulers.base import Denoise, Noise, NoiseSchedule, renoise, time_between
from ldm.schedulers.edm import Heun


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Restart sampling with Heun's method (Xu et al. 2023, arXiv:2306.14878, Alg. 1).

    The step that reaches sigma / alpha = low first is followed by `repeats` rounds: noise up to `high`, then
    `steps` steps of Heun, equal in log-SNR, back down to where that step had ended.

    Args:
        low: t_min of the restart interval, as sigma / alpha.
        high: t_max of it.
        repeats: K, number of rounds.
        steps: of Heun in each round.
    """

    low: float = 0.1
    high: float = 2.0
    repeats: int = 2
    steps: int = 4

    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True
    source: ClassVar[str] = "Xu et al. 2023, arXiv:2306.14878"

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"need 0 < low < high, got {self.low} and {self.high}")
        for name in ("repeats", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def evaluations(self) -> int:
        """Calls of the denoiser in the step that is followed by the rounds; 2 in the others."""
        return 2 + 2 * self.repeats * self.steps

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
        """Heun's step and, where it reaches the lower end, the rounds (Eq. 5)."""
        heun = Heun()
        x, _ = heun.step(denoise, schedule, x, t, s, None, noise)
        sigma_t, sigma_s = (torch.exp(-schedule.log_snr(time) / 2) for time in (t, s))
        reached = (sigma_t > self.low) & (sigma_s <= self.low) & (sigma_s > 0)
        if not reached.any():
            return x, None
        top = schedule.time(torch.full_like(sigma_s, self.high).log() * -2)
        high = torch.where(reached, torch.maximum(top, s), s.to(top.dtype))
        for _ in range(self.repeats):
            again = renoise(schedule, x, s, high, noise(high, s))
            start = high
            for i in range(self.steps):
                end = s if i == self.steps - 1 else time_between(schedule, high, s, (i + 1) / self.steps)
                again, _ = heun.step(denoise, schedule, again, start, end, None, noise)
                start = end
            x = torch.where(reached.view(-1, *[1] * (x.ndim - 1)), again, x)
        return x, None
