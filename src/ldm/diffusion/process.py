"""A diffusion model's training loss and denoiser from schedule, prediction and net."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.prediction import Denoised, Prediction
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.weighting import Uniform, Weighting

Net = Callable[[Tensor, Tensor], Tensor]
Denoise = Callable[[Tensor, Tensor], Denoised]


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """Noise schedule, prediction type and loss weight.

    Args:
        schedule: noise levels.
        prediction: what the net outputs.
        weighting: weight of the loss at each level.
    """

    schedule: NoiseSchedule
    prediction: Prediction
    weighting: Weighting = Uniform()

    def __post_init__(self) -> None:
        """Refuses eps-prediction where x0 is undetermined."""
        if self.prediction.name == "eps" and self.schedule.zero_terminal_snr:
            raise ValueError(
                "eps-prediction needs a schedule with a positive terminal SNR; with zero terminal SNR x0 is "
                "undetermined: choose prediction=v or prediction=x0 (prediction, schedule)"
            )

    def add_noise(
        self, x0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """x_t = alpha_t x0 + sigma_t eps (Ho et al. 2020, Eq. 4)."""
        alpha, sigma = self.schedule(t, x0.ndim)
        return alpha * x0 + sigma * noise

    def loss(
        self, net: Net, x0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Weighted mean squared error of the net's prediction, per sample, in float32.

        Args:
            net: maps (x_t, t) to the prediction.
            x0: clean data.
            noise: standard normal, like x0.
            t: times in schedule units.
        """
        alpha, sigma = self.schedule(t, x0.ndim)
        target = self.prediction.target(x0, noise, alpha, sigma)
        error = (net(alpha * x0 + sigma * noise, t).float() - target).square().flatten(1).mean(1)
        return self.weighting(alpha.flatten(), sigma.flatten(), self.prediction) * error

    def denoiser(self, net: Net) -> Denoise:
        """The function (x_t, t) -> Denoised(x0, eps) that samplers use."""

        def denoise(x_t: Tensor, t: Tensor) -> Denoised:
            alpha, sigma = self.schedule(t, x_t.ndim)
            return self.prediction.split(net(x_t, t.expand(len(x_t))).float(), x_t, alpha, sigma)

        return denoise
