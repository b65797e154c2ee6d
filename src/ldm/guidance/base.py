"""Common parts of guidance rules: branches, their evaluation in one batch, conversion from and to x0."""

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
    """A net with its conditioning.

    Attributes:
        net: the net.
        cond: b rows of conditioning.
        perturbed: True to replace the self-attention in the net's middle by the identity.
    """

    net: Backbone
    cond: Conditioning
    perturbed: bool = False


@dataclass(frozen=True, eq=False)
class Branches:
    """The nets that a rule may evaluate for b images.

    Args:
        cond: the net, conditioned on the prompts.
        uncond: the net, conditioned on the empty or negative prompts; None for an unconditional model.
        weak: a weaker net, conditioned on the negative prompts if given, else on the prompts; or None.
    """

    cond: Branch
    uncond: Branch | None = None
    weak: Branch | None = None


@runtime_checkable
class Guidance(Protocol):
    """A rule that combines the outputs of several branches. It is called once for each sampling run."""

    @property
    def needs_uncond(self) -> bool:
        """True if the rule evaluates the empty prompt, on which the model must have been trained."""

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities that the net must have, of those in `supports` of a backbone."""

    def __call__(self, branches: Branches, scale: float, diffusion: Diffusion) -> Net:
        """The guided net.

        Args:
            branches: the nets to evaluate.
            scale: w; 1 is the conditional net without guidance.
            diffusion: prediction type and noise levels of the nets.
        """


def combined(combine: Callable[..., Tensor], first: Branch, *others: Branch) -> Net:
    """The net (x_t, t) -> combine(x_t, t, *outputs), outputs in float32; branches of a net share a batch.

    If the nets learned the variance of a step, the rule combines the predictions alone and the first branch's
    variance is returned unchanged.

    Args:
        combine: maps x_t, t (b,) and the output of each branch to an output of the same shape.
        first: the branch whose learned variance is returned.
        others: further branches.
    """
    branches = (first, *others)
    batches = []
    for net in dict.fromkeys(branch.net for branch in branches):
        places = [i for i, branch in enumerate(branches) if branch.net == net]
        batches.append((net, places, reduce(Conditioning.cat, (branches[i].cond for i in places))))

    def net_of_all(x_t: Tensor, t: Tensor) -> Tensor:
        outputs: dict[int, Tensor] = {}
        for net, places, cond in batches:
            n = len(places)
            if any(flags := [branches[i].perturbed for i in places]):
                rows = torch.tensor(flags, device=x_t.device).repeat_interleave(len(x_t))
                cond = replace(cond, identity_attention=rows)
            out = net(torch.cat([x_t] * n), torch.cat([t] * n), cond) if n > 1 else net(x_t, t, cond)
            parts = out.to(torch.promote_types(x_t.dtype, torch.float32)).chunk(n)
            outputs.update(zip(places, parts, strict=True))
        c = x_t.shape[1]
        one = combine(x_t, t, *(outputs[i][:, :c] for i in range(len(branches))))
        variance = outputs[0][:, c:]
        return torch.cat([one, variance], dim=1) if variance.shape[1] else one

    return net_of_all


def alone(branch: Branch) -> Net:
    """The net of one branch."""
    return lambda x_t, t: branch.net(x_t, t, branch.cond)


def norm_dims(x: Tensor) -> tuple[int, ...]:
    """All axes but the batch's."""
    return tuple(range(1, x.ndim))


def data_in(diffusion: Diffusion, x: Tensor, t: Tensor, out: Tensor) -> Tensor:
    """The estimate of x0 given by an output of the net; x is the net's input."""
    x_t, (alpha, sigma) = _noisy(diffusion, x, t), diffusion.schedule(t, x.ndim, out.dtype)
    return diffusion.prediction.split(out, x_t, alpha, sigma).x0


def output_of(diffusion: Diffusion, x: Tensor, t: Tensor, x0: Tensor) -> Tensor:
    """The output that gives an estimate of x0, inverse of `data_in`."""
    x_t, (alpha, sigma) = _noisy(diffusion, x, t), diffusion.schedule(t, x.ndim, x0.dtype)
    return diffusion.prediction.target(x0, noise_in(x_t, x0, alpha, sigma), alpha, sigma)


def _noisy(diffusion: Diffusion, x: Tensor, t: Tensor) -> Tensor:
    schedule = diffusion.schedule
    return x * schedule.spread(t, x.ndim, x.dtype) if schedule.scales_input else x
