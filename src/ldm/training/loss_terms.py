"""Terms added to the loss of a diffusion model: regularisers and auxiliary losses, each a callable."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.prediction import Denoised
from ldm.diffusion.process import Diffusion, Net
from ldm.guidance.base import Backbone


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


class Recorded:
    """A denoising net at its conditioning, (x_t, t) -> out, that keeps its latest output for loss terms."""

    def __init__(self, net: Backbone, cond: Conditioning) -> None:
        self.net, self.cond = net, cond
        self.out: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The output of the net."""
        self.out = self.net(x_t, t, self.cond)
        return self.out


def added(
    terms: Collection[LossTerm],
    diffusion: Diffusion,
    net: Recorded,
    x0: Float[Tensor, "b ..."],
    noise: Float[Tensor, "b ..."],
    t: Float[Tensor, " b"],
) -> Float[Tensor, " b"]:
    """Sum of the loss terms of each sample.

    Args:
        terms: at least one.
        diffusion: schedule, prediction and weighting.
        net: the net, just evaluated at (x_t, t).
        x0: clean latents.
        noise: standard normal, shaped as x0.
        t: times.

    Raises: ValueError if a term is not shaped (b,).
    """
    assert net.out is not None
    step = Step(diffusion=diffusion, net=net, x0=x0, noise=noise, t=t, cond=net.cond, out=net.out)
    total = torch.zeros_like(t)
    for term in terms:
        value = term(step)
        if value.shape != t.shape:
            name = type(term).__name__
            raise ValueError(f"{name} must return shape {tuple(t.shape)}, got {tuple(value.shape)}")
        total = total + value
    return total
