"""What guidance rules share: whom a rule may ask, asking them in one batch, and estimates of x0 and back."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.prediction import noise_in
from ldm.diffusion.process import Diffusion, Net

Backbone = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""Maps (x_t, t, cond) to the prediction."""


class Branch(NamedTuple):
    """A net and what it is told.

    Attributes:
        net: the net.
        cond: b rows of conditioning.
        perturbed: whether the self-attention in the net's middle is the identity.
    """

    net: Backbone
    cond: Conditioning
    perturbed: bool = False


@dataclass(frozen=True, eq=False)
class Branches:
    """Whom a rule may ask about b images.

    Args:
        cond: the net, told the prompts.
        uncond: the net, told the empty or negative prompts; None for a model that is told nothing.
        weak: a weaker net, told the negative prompts if there are any and else the prompts; None for none.
    """

    cond: Branch
    uncond: Branch | None = None
    weak: Branch | None = None


@runtime_checkable
class Guidance(Protocol):
    """A rule that makes one net of several answers. It is called once for each run of a sampler."""

    @property
    def needs_uncond(self) -> bool:
        """Whether it asks about the empty prompt, which a model must have been trained on."""

    def __call__(self, branches: Branches, scale: float, diffusion: Diffusion) -> Net:
        """The net that a denoiser is made of.

        Args:
            branches: whom to ask.
            scale: w; 1 is the conditional net alone.
            diffusion: what the nets predict, at which noise levels.
        """


def combined(combine: Callable[..., Tensor], first: Branch, *others: Branch) -> Net:
    """The net (x_t, t) -> combine(x_t, t, *answers), the answers in float32; branches of a net share a batch.

    Of nets that learned the variance of a step the rule sees the prediction, and the first branch's variance
    is kept.

    Args:
        combine: maps x_t, t (b,) and the answer of each branch to an answer shaped as them.
        first: whom to ask.
        others: whom to ask besides.
    """
    branches = (first, *others)
    batches = []
    for net in dict.fromkeys(branch.net for branch in branches):
        places = [i for i, branch in enumerate(branches) if branch.net == net]
        batches.append((net, places, reduce(Conditioning.cat, (branches[i].cond for i in places))))

    def net_of_all(x_t: Tensor, t: Tensor) -> Tensor:
        answers: dict[int, Tensor] = {}
        for net, places, cond in batches:
            n = len(places)
            if any(flags := [branches[i].perturbed for i in places]):
                rows = torch.tensor(flags, device=x_t.device).repeat_interleave(len(x_t))
                cond = replace(cond, identity_attention=rows)
            out = net(torch.cat([x_t] * n), torch.cat([t] * n), cond) if n > 1 else net(x_t, t, cond)
            parts = out.to(torch.promote_types(x_t.dtype, torch.float32)).chunk(n)
            answers.update(zip(places, parts, strict=True))
        c = x_t.shape[1]
        one = combine(x_t, t, *(answers[i][:, :c] for i in range(len(branches))))
        variance = answers[0][:, c:]
        return torch.cat([one, variance], dim=1) if variance.shape[1] else one

    return net_of_all


def alone(branch: Branch) -> Net:
    """The net of one branch."""
    return lambda x_t, t: branch.net(x_t, t, branch.cond)


def norm_dims(x: Tensor) -> tuple[int, ...]:
    """All axes but the batch's."""
    return tuple(range(1, x.ndim))


def data_in(diffusion: Diffusion, x: Tensor, t: Tensor, out: Tensor) -> Tensor:
    """The estimate of x0 that an answer stands for; x is what the net reads."""
    x_t, (alpha, sigma) = _noisy(diffusion, x, t), diffusion.schedule(t, x.ndim, out.dtype)
    return diffusion.prediction.split(out, x_t, alpha, sigma).x0


def answer_of(diffusion: Diffusion, x: Tensor, t: Tensor, x0: Tensor) -> Tensor:
    """The answer that stands for an estimate of x0, inverse of `data_in`."""
    x_t, (alpha, sigma) = _noisy(diffusion, x, t), diffusion.schedule(t, x.ndim, x0.dtype)
    return diffusion.prediction.target(x0, noise_in(x_t, x0, alpha, sigma), alpha, sigma)


def _noisy(diffusion: Diffusion, x: Tensor, t: Tensor) -> Tensor:
    schedule = diffusion.schedule
    return x * schedule.spread(t, x.ndim, x.dtype) if schedule.scales_input else x
