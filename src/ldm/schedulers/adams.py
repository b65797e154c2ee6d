"""Linear multistep methods on eps: LMS, DEIS and PLMS."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ldm.schedulers.base import Denoise, Noise, NoiseSchedule, half_log_snr, levels, move
from ldm.schedulers.long_steps import trapezoid_helps
from ldm.schedulers.multistep import Estimate, Path, lagrange_integrals, remember


@dataclass(frozen=True, kw_only=True)
class Adams:
    """Adams-Bashforth in sigma / alpha with exact weights on any grid.

    The noise eps is a polynomial through the last estimates, in sigma / alpha (LMS of k-diffusion, Crowson
    2022) or in its logarithm (DEIS, Zhang & Chen 2023, arXiv:2204.13902, Eq. 15, rho-AB in log rho); in sigma
    / alpha too for the step to clean data, where the logarithm is infinite and the estimates are not.

    Args:
        order: number of estimates used, once there are as many.
        variable: of the polynomial, "sigma" or "log_sigma".
    """

    order: int = 4
    variable: Literal["sigma", "log_sigma"] = "sigma"

    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    source: ClassVar[str] = "Zhang & Chen 2023, arXiv:2204.13902"

    def __post_init__(self) -> None:
        if self.variable not in ("sigma", "log_sigma"):
            raise ValueError(f"variable must be sigma or log_sigma, got {self.variable}")
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"order must be 1 to 4, got {self.order}")

    def step(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: Path | None,
        noise: Noise,
    ) -> tuple[Tensor, Path]:
        """x_s / alpha_s = x_t / alpha_t + sum_j C_j eps_j (Eq. 14), C_j the integrals of Eq. 15."""
        found, lambda_t, lambda_s = denoise(x, t), half_log_snr(schedule, t, x), half_log_snr(schedule, s, x)
        past = None if state is None else state.through(x, found.eps)
        history = remember(past, lambda_t, found.eps, self.order)
        x_s, (alpha_s, _) = move(schedule, x, found.x0, t, s), levels(schedule, s, x)
        if self.variable == "sigma" or bool(torch.isinf(lambda_s).any()):
            nodes = [torch.exp(-e.at) for e in history]
            weights = lagrange_integrals(nodes, torch.exp(-lambda_t), torch.exp(-lambda_s), torch.ones_like)
        else:
            weights = lagrange_integrals([-e.at for e in history], -lambda_t, -lambda_s, torch.exp)
        for weight, estimate in zip(weights[1:], history[1:], strict=True):
            x_s = x_s + (alpha_s * weight).to(x_s.dtype) * (estimate.value - found.eps)
        return x_s, Path(history, x_s)


@dataclass(frozen=True, kw_only=True)
class PLMS:
    """Pseudo linear multistep (Liu et al. 2022, arXiv:2202.09778), the sampler Stable Diffusion came with.

    The weights are those of equal steps in t. The first step averages the slopes at its ends.
    """

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    source: ClassVar[str] = "Liu et al. 2022, arXiv:2202.09778"

    def step(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: Path | None,
        noise: Noise,
    ) -> tuple[Tensor, Path | None]:
        """DDIM's transfer (Eq. 11) of the mean slope (Eq. 12), of fewer estimates at the start."""
        found = denoise(x, t)
        past = () if state is None else state.through(x, found.eps)
        x_s, helps = move(schedule, x, found.x0, t, s), trapezoid_helps(schedule, t, s, x)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(schedule, t, x), levels(schedule, s, x)
        usable = (alpha_t > 0) & ((sigma_s > 0) & helps | bool(past))
        if not usable.any():
            return x_s, None
        e = (found.eps, *(estimate.value for estimate in past))
        mean = {
            1: lambda: (e[0] + denoise(x_s, s).eps) / 2,
            2: lambda: (3 * e[0] - e[1]) / 2,
            3: lambda: (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12,
            4: lambda: (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24,
        }[len(e)]()
        width = torch.where(usable, sigma_s - alpha_s * sigma_t / alpha_t, 0.0)
        x_s = torch.where(usable, x_s + width * (mean - found.eps), x_s)
        return x_s, Path((Estimate(half_log_snr(schedule, t, x), found.eps), *past)[:3], x_s)
