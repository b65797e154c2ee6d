"""Loss weights over noise levels, as factors of the squared error of what the net predicts."""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.prediction import Prediction
from ldm.utils.errors import UserError


@runtime_checkable
class Weighting(Protocol):
    """Maps noise levels to weights, finite for every level.

    With `over_log_snr = True` on its class a weighting is a density over the log-SNR, which `Diffusion.loss`
    multiplies by -d log SNR / dt. Without, it is a density over the times.
    """

    def __call__(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Weight of the prediction's squared error, shaped as alpha."""


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """1 everywhere: for eps the simple loss of Ho et al. 2020 (arXiv:2006.11239, Eq. 14)."""

    def __call__(
        self, alpha: Float[Tensor, "*b"], sigma: Float[Tensor, "*b"], prediction: Prediction
    ) -> Float[Tensor, "*b"]:
        """Returns ones."""
        return torch.ones_like(alpha)


@dataclass(frozen=True, kw_only=True)
class MinSNR:
    """min(SNR, gamma) on the error of x0 (Hang et al. 2023, arXiv:2303.09556, section 3.4).

    SNR times the squared error of x0 is the squared error of eps, so the weight is the smaller of two error
    ratios and needs no division by the SNR: min(1, gamma / SNR) for eps, min(alpha^2, gamma sigma^2) for v.

    Args:
        gamma: SNR above which the weight of x0's error stays constant.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        _check_positive("gamma", self.gamma)

    def __call__(
        self, alpha: Float[Tensor, "*b"], sigma: Float[Tensor, "*b"], prediction: Prediction
    ) -> Float[Tensor, "*b"]:
        """Weights of the prediction's squared error."""
        x0, eps = prediction.error_ratio(alpha, sigma)
        return torch.minimum(eps, self.gamma * x0)


@dataclass(frozen=True, kw_only=True)
class SoftMinSNR:
    """gamma SNR / (SNR + gamma) on the error of x0, a smooth min(SNR, gamma).

    Crowson et al. 2024 (arXiv:2401.11605). In error ratios: 1 / (1 / eps + 1 / (gamma x0)).

    Args:
        gamma: the limit of the weight at clean data. The paper's 4 is 1 / sigma_data^2 for its pixels of
            standard deviation 1/2; data of unit variance, as latents are, take 1.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("gamma", self.gamma)

    def __call__(
        self, alpha: Float[Tensor, "*b"], sigma: Float[Tensor, "*b"], prediction: Prediction
    ) -> Float[Tensor, "*b"]:
        """Weights of the prediction's squared error."""
        x0, eps = prediction.error_ratio(alpha, sigma)
        return 1 / (1 / eps + 1 / (self.gamma * x0))


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """sigmoid(bias - log SNR) on the error of eps, over the log-SNR (Kingma & Gao 2023, arXiv:2303.00848).

    The loss at uniform times is the integral of w(lambda) |eps - eps_hat|^2 d lambda, lambda = log SNR (their
    Eq. 7), so that the schedule decides on its variance alone: at a time the weight is w -d lambda / dt, with
    t in units of the training range. w is `SoftMinSNR` with gamma = exp(bias), over lambda in place of t.
    Hoogeboom et al. 2024 (arXiv:2410.19324) shift the bias for large images.

    Args:
        bias: log-SNR at which the weight is one half; larger favours less noise.
    """

    over_log_snr: ClassVar[bool] = True

    bias: float = 0.0

    def __post_init__(self) -> None:
        if not abs(self.bias) < 50:
            raise ValueError(f"bias must be a log-SNR in (-50, 50), got {self.bias}")

    def __call__(
        self, alpha: Float[Tensor, "*b"], sigma: Float[Tensor, "*b"], prediction: Prediction
    ) -> Float[Tensor, "*b"]:
        """Weights of the prediction's squared error."""
        return SoftMinSNR(gamma=math.exp(self.bias))(alpha, sigma, prediction)


@dataclass(frozen=True, kw_only=True)
class P2:
    """(k + SNR)^-gamma on the error of eps (Choi et al. 2022, arXiv:2204.00227, Eq. 8).

    Args:
        k: bounds the weight where there is no signal.
        gamma: how much less noise counts less.
    """

    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("k", self.k)
        _check_positive("gamma", self.gamma)

    def __call__(
        self, alpha: Float[Tensor, "*b"], sigma: Float[Tensor, "*b"], prediction: Prediction
    ) -> Float[Tensor, "*b"]:
        """Weights of the prediction's squared error."""
        x0, eps = prediction.error_ratio(alpha, sigma)
        return eps * (self.k + eps / x0).pow(-self.gamma)


@dataclass(frozen=True, kw_only=True)
class Debiased:
    """SNR^(-1/2) on the error of eps (Yu et al. 2023, arXiv:2310.08442, Eq. 11): alpha sigma for v."""

    def __call__(
        self, alpha: Float[Tensor, "*b"], sigma: Float[Tensor, "*b"], prediction: Prediction
    ) -> Float[Tensor, "*b"]:
        """Weights of the prediction's squared error."""
        x0, eps = prediction.error_ratio(alpha, sigma)
        return (x0 * eps).sqrt()


@dataclass(frozen=True, kw_only=True)
class EDM:
    """SNR + 1 / sigma_data^2 on the error of x0 (Karras et al. 2022, arXiv:2206.00364, Table 1).

    It is 1 for v if sigma_data is 1.

    Args:
        sigma_data: standard deviation of the data.
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("sigma_data", self.sigma_data)

    def __call__(
        self, alpha: Float[Tensor, "*b"], sigma: Float[Tensor, "*b"], prediction: Prediction
    ) -> Float[Tensor, "*b"]:
        """Weights of the prediction's squared error."""
        x0, eps = prediction.error_ratio(alpha, sigma)
        return eps + x0 / self.sigma_data**2


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise UserError(f"{name} must be positive, got {value}")
