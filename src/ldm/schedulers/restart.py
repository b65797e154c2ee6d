"""Restart: an interval of noise levels is sampled again after noise was added."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ldm.schedulers.base import Denoise, Noise, NoiseSchedule, renoise
from ldm.schedulers.edm import Heun

RHO = 7.0


@dataclass(frozen=True, kw_only=True)
class Restart:
    """Restart sampling with Heun's method (Xu et al. 2023, arXiv:2306.14878, Alg. 1).

    The step that passes sigma / alpha = low is divided there, on every grid. `repeats` rounds follow: noise
    up to `high`, then `steps` steps of Heun back down, on the levels of Karras et al. 2022 (Eq. 5, rho = 7).
    A grid that ends above `low` has no restart.

    The error of a round is that of its steps: on Gaussian data of deviation 0.6 the samples are too wide by
    5.8 % with 4 of them, by 1.4 % with 8.

    Args:
        low: t_min of the restart interval, as sigma / alpha.
        high: t_max of it.
        repeats: K, number of rounds.
        steps: of Heun in each round.
    """

    low: float = 0.1
    high: float = 2.0
    repeats: int = 2
    steps: int = 8

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
        """Calls of the denoiser in the step that has the rounds; 2 in the others."""
        return 4 + 2 * self.repeats * self.steps

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
        """Heun's step, in two parts with the rounds (Eq. 5) between them where it passes the lower end."""
        heun = Heun()
        log_t, log_s = schedule.log_snr(t), schedule.log_snr(s)
        low, high = (torch.full_like(log_s, level).log() * -2 for level in (self.low, self.high))
        passes = (log_t < low) & (log_s >= low)
        divided = torch.where(passes, torch.maximum(schedule.time(low), s.to(low.dtype)), s.to(low.dtype))
        x, _ = heun.step(denoise, schedule, x, t, divided, None, noise)
        if not passes.any():
            return x, None
        rows = passes.view(-1, *[1] * (x.ndim - 1))
        for _ in range(self.repeats):
            again = self._round(denoise, schedule, x, divided, schedule.time(high), noise)
            x = torch.where(rows, again, x)
        if bool((divided > s).any()):
            x = torch.where(rows, heun.step(denoise, schedule, x, divided, s, None, noise)[0], x)
        return x, None

    def _round(
        self, denoise: Denoise, schedule: NoiseSchedule, x: Tensor, low: Tensor, high: Tensor, noise: Noise
    ) -> Tensor:
        """Noise from the time `low` up to `high`, and back down."""
        high = torch.maximum(high, low)
        x, start = renoise(schedule, x, low, high, noise(high, low)), high
        root_low, root_high = (torch.exp(-schedule.log_snr(time) / (2 * RHO)) for time in (low, high))
        for i in range(1, self.steps + 1):
            level = RHO * torch.log(torch.lerp(root_high, root_low, i / self.steps))
            end = low if i == self.steps else schedule.time(-2 * level)
            x, _ = Heun().step(denoise, schedule, x, start, end, None, noise)
            start = end
        return x
