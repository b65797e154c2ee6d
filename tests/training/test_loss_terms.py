"""Loss terms: the sum, one evaluation of the net, nothing changed without terms."""

from dataclasses import dataclass

import pytest
import torch

from ldm.diffusion import Conditioning, Diffusion, Velocity
from ldm.diffusion.schedule import cosine
from ldm.diffusion.weighting import Uniform
from ldm.training.loss_terms import LossTerm, Recorded, added

DIFFUSION = Diffusion(schedule=cosine(), prediction=Velocity(), weighting=Uniform())
X0, NOISE = torch.randn(2, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.0, 300.0, 600.0, 900.0])


class Net:
    """A linear net that counts its evaluations."""

    def __init__(self):
        self.weight, self.evaluations = torch.tensor(0.5, requires_grad=True), 0

    def __call__(self, x_t, t):
        self.evaluations += 1
        return self.weight * x_t


@dataclass(frozen=True, kw_only=True)
class Size:
    """Squared size of the net's output."""

    weight: float = 1.0

    def __call__(self, step):
        return self.weight * step.out.square().flatten(1).mean(1)


def losses(terms, net):
    recorded = Recorded(lambda x_t, t, cond: net(x_t, t), Conditioning())
    loss = DIFFUSION.loss(recorded, X0, NOISE, T)
    return loss + added(terms, DIFFUSION, recorded, X0, NOISE, T) if terms else loss


def test_a_recorded_net_has_the_loss_of_the_net_bit_for_bit():
    assert torch.equal(losses((), Net()), DIFFUSION.loss(Net(), X0, NOISE, T))


def test_terms_are_added_with_one_evaluation_of_the_net():
    net = Net()
    x_t = DIFFUSION.add_noise(X0, NOISE, T)
    size = (0.5 * x_t).square().flatten(1).mean(1)
    expected = DIFFUSION.loss(Net(), X0, NOISE, T) + size + 0.25 * size
    assert isinstance(Size(), LossTerm)
    assert torch.allclose(losses((Size(), Size(weight=0.25)), net), expected)
    assert net.evaluations == 1


def test_gradients_reach_the_net_through_a_term():
    net = Net()
    (losses((Size(),), net) - losses((), net)).sum().backward()
    assert net.weight.grad is not None
    assert net.weight.grad > 0


def test_a_step_has_the_estimates_and_the_target_of_the_loss():
    seen = []

    def term(step):
        seen.append(step)
        return torch.zeros(4)

    net = Net()
    losses((term,), net)
    (step,) = seen
    x_t = DIFFUSION.add_noise(X0, NOISE, T)
    assert torch.equal(step.x_t, x_t)
    found = DIFFUSION.denoiser(net)(x_t, T)
    assert torch.allclose(step.denoised.x0, found.x0)
    error = (step.out - step.target).square().flatten(1).mean(1)
    assert torch.allclose(error, DIFFUSION.loss(net, X0, NOISE, T))


def test_a_term_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"must return shape \(4,\), got \(\)"):
        losses((lambda step: step.out.mean(),), Net())
