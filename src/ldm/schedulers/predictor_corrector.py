"""Multistep predictors, corrected with the next estimate at no further cost: UniPC and SA-Solver."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ldm.schedulers.base import Denoise, Noise, NoiseSchedule, check_share, half_log_snr, levels
from ldm.schedulers.multistep import Estimate, History, lagrange_integrals, remember, steady


class Pending(NamedTuple):
    """A step before its correction: its start, its noise, the estimates up to its start, where it led."""

    x: Tensor
    start: Tensor
    drawn: Tensor | None
    history: History
    predicted: Tensor

    def corrected(self, x: Tensor, other: Tensor) -> Tensor:
        """The corrected data `other`, but x where it is no longer what the step led to.

        `on_step` may have replaced it, as inpainting does with the known region: that is not corrected.
        """
        return torch.where(x == self.predicted, other, x)


@dataclass(frozen=True, kw_only=True)
class UniPC:
    """Unified predictor-corrector (Zhao et al. 2023, arXiv:2302.04867, Alg. 7 and 8, data prediction).

    With all estimates that an order takes, the weights (Eq. 9) are those of the polynomial through them; only
    where one difference is used B(h) makes a difference (App. F).

    Args:
        order: 1, 2 or 3, of the predictor.
        variant: of B(h): "bh1" is h, "bh2" is e^h - 1.
        correct: whether the corrector runs.
    """

    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    correct: bool = True

    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    source: ClassVar[str] = "Zhao et al. 2023, arXiv:2302.04867"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1 to 3, got {self.order}")
        if self.variant not in ("bh1", "bh2"):
            raise ValueError(f"variant must be bh1 or bh2, got {self.variant}")

    def step(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: Pending | None,
        noise: Noise,
    ) -> tuple[Tensor, Pending | None]:
        """Corrects x_t (Eq. 3), then predicts x_s (Eq. 8), both with the estimate at the predicted x_t."""
        here = Estimate(half_log_snr(schedule, t, x), denoise(x, t).x0)
        if state is not None and self.correct:
            used, base = steady(state.history, here.at - state.history[0].at), state.history[0]
            x = state.corrected(x, self._advance(schedule, state.x, state.start, t, (here, *used), base))
        history = remember(None if state is None else state.history, *here, self.order)
        usable = steady(history, half_log_snr(schedule, s, x) - here.at) or (here,)
        x_s = self._advance(schedule, x, t, s, usable, usable[0])
        return x_s, Pending(x, t, None, history, x_s) if history else None

    def _advance(
        self,
        schedule: NoiseSchedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        estimates: tuple[Estimate, ...],
        base: Estimate,
    ) -> Tensor:
        """x_s from x_t and the polynomial through the estimates; `base` is the one at t."""
        (_, sigma_t), (alpha_s, sigma_s) = levels(schedule, t, x), levels(schedule, s, x)
        h = half_log_snr(schedule, s, x) - half_log_snr(schedule, t, x)
        x_s = sigma_s / sigma_t * x - alpha_s * torch.expm1(-h).to(x.dtype) * base.value
        others = [e for e in estimates if e is not base]
        if len(others) == 1:
            b = h if self.variant == "bh1" else -torch.expm1(-h)
            weights = [b * h / (2 * (others[0].at - base.at))]
        else:
            weights = _weights([*others, base], base.at, h, 1.0)[:-1]
        for weight, other in zip(weights, others, strict=True):
            x_s = x_s + alpha_s * weight.to(x.dtype) * (other.value - base.value)
        return x_s


@dataclass(frozen=True, kw_only=True)
class SASolver:
    """Stochastic Adams predictor-corrector (Xue et al. 2023, arXiv:2309.05019, Alg. 1).

    Args:
        order: 1 to 4, of the predictor.
        corrector_order: estimates of the corrector beside the new one, 0 to 4; 0 for no corrector.
        tau: noise of the reverse SDE, 0 (the ODE) and up; 1 is the SDE of DDPM.
    """

    order: int = 3
    corrector_order: int = 3
    tau: float = 1.0

    evaluations: ClassVar[int] = 1
    source: ClassVar[str] = "Xue et al. 2023, arXiv:2309.05019"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4) or self.corrector_order not in (0, 1, 2, 3, 4):
            raise ValueError(
                f"order must be 1 to 4 and corrector_order 0 to 4, got {self.order} and "
                f"{self.corrector_order}"
            )
        check_share("tau", self.tau, 2.0)

    @property
    def stochastic(self) -> bool:
        """True if a step draws noise."""
        return self.tau > 0

    def step(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: Pending | None,
        noise: Noise,
    ) -> tuple[Tensor, Pending | None]:
        """Corrects x_t (Eq. 17), with the noise that led to it, then predicts x_s (Eq. 14)."""
        here = Estimate(half_log_snr(schedule, t, x), denoise(x, t).x0)
        if state is not None and self.corrector_order:
            used = steady(state.history[: self.corrector_order], here.at - state.history[0].at)
            other = self._advance(schedule, state.x, state.start, t, (here, *used), state.drawn)
            x = state.corrected(x, other)
        length = max(self.order, self.corrector_order)
        history = remember(None if state is None else state.history, *here, length)
        end = half_log_snr(schedule, s, x)
        usable = steady(history[: self.order], end - here.at) if bool(torch.isfinite(end).all()) else ()
        drawn = noise(t, s) if self.tau else None
        x_s = self._advance(schedule, x, t, s, usable or (here,), drawn)
        return x_s, Pending(x, t, drawn, history, x_s) if history else None

    def _advance(
        self,
        schedule: NoiseSchedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        estimates: tuple[Estimate, ...],
        drawn: Tensor | None,
    ) -> Tensor:
        """sigma_s/sigma_t e^(-tau^2 h) x_t + sum_j b_j x0_j + noise (Eq. 14 to 16)."""
        (_, sigma_t), (alpha_s, sigma_s) = levels(schedule, t, x), levels(schedule, s, x)
        start = half_log_snr(schedule, t, x)
        h, rate = half_log_snr(schedule, s, x) - start, 1 + self.tau**2
        kept = torch.exp(-(self.tau**2) * h) if self.tau else torch.ones_like(h)
        weights = [-torch.expm1(-rate * h)] if len(estimates) == 1 else _weights(estimates, start, h, rate)
        x_s = sigma_s / sigma_t * kept.to(x.dtype) * x
        for weight, estimate in zip(weights, estimates, strict=True):
            x_s = x_s + alpha_s * weight.to(x.dtype) * estimate.value
        if drawn is None:
            return x_s
        return x_s + sigma_s * (-torch.expm1(-2 * self.tau**2 * h)).sqrt().to(x.dtype) * drawn


def _weights(
    estimates: tuple[Estimate, ...] | list[Estimate], start: Tensor, h: Tensor, rate: float
) -> list[Tensor]:
    """Integrals of rate e^(rate (u - h)) l_j(u) over u = lambda - lambda_t from 0 to h."""
    nodes = [e.at - start for e in estimates]
    return lagrange_integrals(nodes, torch.zeros_like(h), h, lambda u: rate * torch.exp(rate * (u - h)))
