"""A diffusion model without its net: noise schedule, prediction type and loss weighting."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.prediction import Denoise, Denoised, Prediction
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.weighting import Weighting
from ldm.utils.errors import UserError

Net = Callable[[Tensor, Tensor], Tensor]
"""Maps noisy data x_t (b, ...) and times t (b,) to the prediction (b, ...)."""


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """Training loss and denoiser of any net.

    Args:
        schedule: noise levels.
        prediction: what the net predicts.
        weighting: weight of the loss at each noise level.
    """

    schedule: NoiseSchedule
    prediction: Prediction
    weighting: Weighting

    def __post_init__(self) -> None:
        if self.prediction.needs_signal and self.schedule.zero_terminal_snr:
            raise ValueError(
                f"prediction={self.prediction.name} leaves x0 undetermined where the SNR is 0, where this "
                "schedule ends: take prediction=v or x0, or another schedule"
            )

    def add_noise(
        self, x0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " #b"]
    ) -> Float[Tensor, "b ..."]:
        """x_t = alpha_t x0 + sigma_t eps (Ho et al. 2020, arXiv:2006.11239, Eq. 4)."""
        alpha, sigma = self.schedule(t, x0.ndim)
        return alpha * x0 + sigma * noise

    def loss(
        self, net: Net, x0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Weighted squared error of the prediction for each sample, in float32, averaged over its elements.

        Args:
            net: maps (x_t, t) to the prediction.
            x0: clean data, (b, ...).
            noise: standard normal, shaped as x0.
            t: times in [-1, T-1], (b,).

        Raises:
            ValueError: if the net's output is not shaped as x0.
        """
        alpha, sigma = self.schedule(t, x0.ndim)
        out = net(self._input(alpha * x0 + sigma * noise, t), t)
        if out.shape != x0.shape:
            raise UserError(
                f"the backbone must return shape {tuple(x0.shape)}, got {tuple(out.shape)}: see "
                "its out_channels"
            )
        target = self.prediction.target(x0, noise, alpha, sigma)
        error = (out.float() - target.float()).square().flatten(1).mean(1)  # (b,)
        return self._weight(t, alpha, sigma) * error

    def denoiser(self, net: Net) -> Denoise:
        """The function (x_t, t) -> (x0, eps) that samplers call, t (b,) or (1,).

        The estimates are in float32, in float64 for such data. A net with twice the channels of x_t has
        learned the variance as well (`Denoised.variance`).
        """

        def denoise(x_t: Tensor, t: Tensor) -> Denoised:
            dtype = torch.promote_types(x_t.dtype, torch.float32)
            alpha, sigma = self.schedule(t, x_t.ndim, dtype)
            out = net(self._input(x_t, t), t.float().expand(len(x_t))).to(dtype)
            if out.shape == x_t.shape:
                return self.prediction.split(out, x_t, alpha, sigma)
            if out.shape != (len(x_t), 2 * x_t.shape[1], *x_t.shape[2:]):
                raise UserError(
                    f"the backbone must return shape {tuple(x_t.shape)}, or twice the channels if it learned "
                    f"the variance, got {tuple(out.shape)}: see its out_channels"
                )
            out, variance = out.chunk(2, dim=1)
            return self.prediction.split(out, x_t, alpha, sigma)._replace(variance=variance)

        return denoise

    def _weight(self, t: Tensor, alpha: Tensor, sigma: Tensor) -> Float[Tensor, " b"]:
        """Weights of the losses at times t; a density over the log-SNR becomes one over t / (T - 1)."""
        weight = self.weighting(alpha, sigma, self.prediction).flatten()
        if not getattr(self.weighting, "over_log_snr", False):
            return weight
        rate = self.schedule.rate(t) * (self.schedule.num_train_timesteps - 1)
        # at pure noise the rate is infinite, and the product's limit 0
        return torch.where(weight > 0, weight * rate, 0.0).to(weight.dtype)

    def _input(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The input of the net: x_t, scaled to unit variance where the schedule demands it."""
        return x_t / self.schedule.spread(t, x_t.ndim, x_t.dtype) if self.schedule.scales_input else x_t
