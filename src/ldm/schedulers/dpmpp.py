"""DPM-Solver++: exponential integrators on the estimate of x0, for the ODE and the SDE."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ldm.schedulers.base import (
    Denoise,
    Noise,
    NoiseSchedule,
    check_share,
    down_time,
    half_log_snr,
    levels,
    move,
    renoise,
    snr_ratio,
    time_between,
)
from ldm.schedulers.multistep import History, remember, steady
from ldm.utils.errors import UserError

SOURCE = "Lu et al. 2022, arXiv:2211.01095"


@dataclass(frozen=True, kw_only=True)
class DPMSolverPP:
    """Multistep DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095, Alg. 2 and App. B.2).

    Args:
        order: 1, 2 or 3: number of estimates used, once there are as many.
        eta: share of the noise of the reverse SDE: 0 is the ODE, 1 the SDE (section 5).
    """

    order: int = 2
    eta: float = 0.0

    evaluations: ClassVar[int] = 1
    source: ClassVar[str] = SOURCE

    def __post_init__(self) -> None:
        _check_order(self.order, 3)
        check_share("eta", self.eta)

    @property
    def stochastic(self) -> bool:
        """True if a step draws noise."""
        return self.eta > 0

    def step(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: History | None,
        noise: Noise,
    ) -> tuple[Tensor, History]:
        """x_s = sigma_s / sigma_t e^(-eta h) x_t + alpha_s (1 - e^(-k)) x0 + .., k = (1 + eta) h.

        h is lambda_s - lambda_t. Eq. 14 at eta = 0, else with noise of variance sigma_s^2 (1 - e^(-2 eta h)).
        """
        x0, lambda_t = denoise(x, t).x0, half_log_snr(schedule, t, x)
        (_, sigma_t), (alpha_s, sigma_s) = levels(schedule, t, x), levels(schedule, s, x)
        h, dtype = half_log_snr(schedule, s, x) - lambda_t, x0.dtype
        kept = torch.exp(-self.eta * h) if self.eta else torch.ones_like(h)
        k = (1 + self.eta) * h
        history = remember(state, lambda_t, x0, self.order)
        x_s = (sigma_s / sigma_t * kept.to(dtype)) * x - (alpha_s * torch.expm1(-k).to(dtype)) * x0
        past = steady(history, h)
        if len(past) > 1 and bool(torch.isfinite(h).all()):
            x_s = x_s + alpha_s * self._higher(past, h, k, dtype)
        if self.eta:
            x_s = x_s + sigma_s * (-torch.expm1(-2 * self.eta * h)).sqrt().to(dtype) * noise(t, s)
        return x_s, history

    @staticmethod
    def _higher(history: History, h: Tensor, k: Tensor, dtype: torch.dtype) -> Tensor:
        """Contribution of the slope (Eq. 17) and the curvature of x0 in lambda.

        The curvature's weight is that of the exact integral. The published code and k-diffusion have half of
        it, which reduces order 3 to 2 (`tests/schedulers/test_convergence.py`).
        """
        (l0, m0), (l1, m1) = history[:2]
        first = (m0 - m1) / ((l0 - l1) / h).to(dtype)
        if len(history) == 2:
            return (-torch.expm1(-k) / 2).to(dtype) * first
        l2, m2 = history[2]
        r0, r1 = (l0 - l1) / h, (l1 - l2) / h
        change = first - (m1 - m2) / r1.to(dtype)
        phi2 = torch.expm1(-k) / k + 1
        phi3 = 2 * phi2 / k - 1
        slope = first + (r0 / (r0 + r1)).to(dtype) * change
        return phi2.to(dtype) * slope - (phi3 / (r0 + r1)).to(dtype) * change


@dataclass(frozen=True, kw_only=True)
class DPMSolverPPSingle:
    """Singlestep DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095, Alg. 1): no history across steps.

    Args:
        order: 1, 2 or 3: evaluations of a step.
        eta: share of the noise.
        noise_at: "end": the step ends below s and noise raises it to s (2S ancestral of k-diffusion);
            "stages": so does the stage inside the step (DPM-Solver++ SDE of k-diffusion); order 2 only. The
            noise of the step then contains that of the stage, as on a Brownian path: of weak order 2.
    """

    order: int = 2
    eta: float = 0.0
    noise_at: Literal["end", "stages"] = "end"

    source: ClassVar[str] = SOURCE

    def __post_init__(self) -> None:
        _check_order(self.order, 3)
        check_share("eta", self.eta)
        if self.noise_at not in ("end", "stages") or (self.noise_at == "stages" and self.order != 2):
            raise ValueError(f"noise_at must be end, or stages for order 2, got {self.noise_at}")

    @property
    def evaluations(self) -> int:
        """Calls of the denoiser in a step."""
        return self.order

    @property
    def stochastic(self) -> bool:
        """True if a step draws noise."""
        return self.eta > 0

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
        """Alg. 1, to the level that noise raises to s; order 1 where the log-SNR is infinite."""
        d, m0 = down_time(schedule, t, s, self.eta), denoise(x, t).x0
        finite = torch.isfinite(schedule.log_snr(d) - schedule.log_snr(t)).view(-1, *[1] * (x.ndim - 1))
        x0, z = m0, None
        if self.order > 1 and bool(finite.any()):
            if self.noise_at == "stages" and self.eta:
                x0, z = self._with_noise(denoise, schedule, x, m0, t, d, s, noise)
            else:
                x0 = self._estimate(denoise, schedule, x, m0, t, d)
            x0 = torch.where(finite, x0, m0)
        x_d = move(schedule, x, x0, t, d)
        if not self.eta:
            return x_d, None
        return renoise(schedule, x_d, d, s, noise(t, s) if z is None else z), None

    def _with_noise(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        x: Tensor,
        m0: Tensor,
        t: Tensor,
        d: Tensor,
        s: Tensor,
        noise: Noise,
    ) -> tuple[Tensor, Tensor]:
        """The mean of x0 over the step, from a stage that noise raises to its middle, and the step's noise.

        With z1 of (t, m) and z2 of (m, s) those are sqrt(a) z1 + sqrt(1 - a) z2. The share a is what
        sigma_s^2 (1 - SNR_t / SNR_s), the variance of x_s given x_t and x0, has from before m: the same
        transition in two steps leaves (sigma_s SNR_m / (sigma_m SNR_s))^2 of that of x_m.
        """
        m = time_between(schedule, t, s, 0.5)
        below, z = down_time(schedule, t, m, self.eta), noise(t, m)
        x_m = renoise(schedule, move(schedule, x, m0, t, below), below, m, z)
        (ratio, later), (_, earlier), (_, whole) = (
            snr_ratio(schedule, *pair, x) for pair in ((m, s), (t, m), (t, s))
        )
        if bool((m > s).all()):  # not to clean data, beside rows that are not
            z = (ratio * earlier / whole).sqrt() * z + (later / whole).sqrt() * noise(m, s)
        h = (half_log_snr(schedule, d, x) - half_log_snr(schedule, t, x)).nan_to_num(1.0, 1.0)
        return _mean(h, m0, 2 * (denoise(x_m, m).x0 - m0), None), z

    def _estimate(
        self, denoise: Denoise, schedule: NoiseSchedule, x: Tensor, m0: Tensor, t: Tensor, d: Tensor
    ) -> Tensor:
        """The mean of x0 over the step, from one or two stages inside it."""
        if self.order == 2:
            middle = time_between(schedule, t, d, 0.5)
            return denoise(move(schedule, x, m0, t, middle), middle).x0
        u, v = (time_between(schedule, t, d, share) for share in (1 / 3, 2 / 3))
        m_u = denoise(move(schedule, x, m0, t, u), u).x0
        h = (half_log_snr(schedule, d, x) - half_log_snr(schedule, t, x)).nan_to_num(1.0, 1.0)
        # slope and curvature weigh phi2 / phi1 and phi3 / phi1 of the exponential integral
        at_v = _mean(2 * h / 3, m0, 2 * (m_u - m0), None)
        m_v = denoise(move(schedule, x, at_v, t, v), v).x0
        slope, curvature = 3 * (m_u - m0), 9 * (m_v - 2 * m_u + m0)
        return _mean(h, m0, slope - curvature / 6, curvature)


def _mean(h: Tensor, m0: Tensor, slope: Tensor, curvature: Tensor | None) -> Tensor:
    """Mean over a step, under the weight e^(lambda), of m0 + slope u + curvature u^2 / 2, u from 0 to 1."""
    total = -torch.expm1(-h)
    first = 1 - total / h  # the integral of h e^(h (u - 1)) u
    mean = m0 + (first / total).to(m0.dtype) * slope
    if curvature is None:
        return mean
    second = 1 - 2 * first / h  # that of h e^(h (u - 1)) u^2
    return mean + (second / total / 2).to(m0.dtype) * curvature


def _check_order(order: int, high: int) -> None:
    if order not in range(1, high + 1):
        raise UserError(f"order must be 1 to {high}, got {order}")
