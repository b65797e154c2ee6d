"""Terms added to the loss of a diffusion model: regularisers and auxiliary losses, each a callable."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.prediction import Denoised
from ldm.diffusion.process import Diffusion, Net


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One training step, after the net's evaluation.

    Args:
        diffusion: schedule, prediction and weighting.
        net: the denoising net (x_t, t) -> out at the step's conditioning, for further evaluations.
        x0: clean latents, (b, c, h, w).
        noise: standard normal, shaped as x0.
        t: times, (b,).
        cond: conditioning of the b samples.
        out: output of the net at (x_t, t), shaped as x0, with gradients.
    """

    diffusion: Diffusion
    net: Net
    x0: Tensor
    noise: Tensor
    t: Tensor
    cond: Conditioning
    out: Tensor

    @property
    def x_t(self) -> Tensor:
        """Noisy latents."""
        return self.diffusion.add_noise(self.x0, self.noise, self.t)

    @property
    def target(self) -> Tensor:
        """The value that the net regresses."""
        alpha, sigma = self.diffusion.schedule(self.t, self.x0.ndim)
        return self.diffusion.prediction.target(self.x0, self.noise, alpha, sigma)

    @property
    def denoised(self) -> Denoised:
        """Estimates of x0 and eps, with gradients."""
        alpha, sigma = self.diffusion.schedule(self.t, self.x0.ndim)
        return self.diffusion.prediction.split(self.out.float(), self.x_t, alpha, sigma)


@runtime_checkable
class LossTerm(Protocol):
    """A term of the loss: a frozen dataclass with `__call__(step) -> (b,)`, its weight included."""

    def __call__(self, step: Step) -> Float[Tensor, " b"]:
        """Value of the term for each sample, float32."""


def losses_of(
    diffusion: Diffusion,
    net: Net,
    x0: Float[Tensor, "b ..."],
    noise: Float[Tensor, "b ..."],
    t: Float[Tensor, " b"],
    cond: Conditioning,
    terms: Collection[LossTerm],
) -> Float[Tensor, " b"]:
    """Loss of each sample: that of `Diffusion.loss`, plus the terms, with one evaluation of the net.

    Args:
        diffusion: schedule, prediction and weighting.
        net: maps (x_t, t) to the prediction.
        x0: clean latents.
        noise: standard normal, shaped as x0.
        t: times.
        cond: conditioning of the samples.
        terms: added to the loss; without any it is `Diffusion.loss`, bit for bit.

    Raises: ValueError if a term is not shaped (b,).
    """
    if not terms:
        return diffusion.loss(net, x0, noise, t)
    outputs: list[Tensor] = []

    def recorded(x_t: Tensor, s: Tensor) -> Tensor:
        outputs.append(net(x_t, s))
        return outputs[-1]

    losses = diffusion.loss(recorded, x0, noise, t)
    step = Step(diffusion=diffusion, net=net, x0=x0, noise=noise, t=t, cond=cond, out=outputs[0])
    for term in terms:
        value = term(step)
        if value.shape != losses.shape:
            name = type(term).__name__
            raise ValueError(f"{name} must return shape {tuple(losses.shape)}, got {tuple(value.shape)}")
        losses = losses + value
    return losses
