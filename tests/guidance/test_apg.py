"""Adaptive projected guidance, line by line, and on x0 whatever the net predicts."""

import pytest
import torch
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.prediction import Sample
from ldm.diffusion.process import Diffusion
from ldm.diffusion.weighting import Uniform
from ldm.guidance import APG, Branches
from ldm.guidance.base import Backbone


def test_apg_is_its_algorithm(toy):
    """With x0 as the prediction no conversion stands between: Alg. 1, line by line."""
    diffusion, asked = toy.diffusion_of("x0"), toy.branches(toy.Net())
    rule = APG(eta=0.3, momentum=-0.5, norm_threshold=1.5)
    net, running = rule(asked, toy.W, diffusion), torch.zeros(3, 32)
    for time in (900.0, 600.0, 300.0):
        x_t, t = toy.inputs(time=time)
        cond, uncond = (a.flatten(1) for a in toy.answers(asked, x_t, t))
        running = cond - uncond - 0.5 * running
        step = running * (1.5 / running.norm(dim=1, keepdim=True)).clamp(max=1)
        unit = cond / cond.norm(dim=1, keepdim=True)
        parallel = (step * unit).sum(1, keepdim=True) * unit
        expected = cond + (toy.W - 1) * (step - parallel + 0.3 * parallel)
        torch.testing.assert_close(net(x_t, t).flatten(1), expected)


@pytest.mark.parametrize("case", ["eps", "v", "x0", "flow", "edm"])
def test_apg_acts_on_x0_whatever_is_predicted(toy, case: str):
    """The same estimates of x0 in other words give the same guided x0."""
    diffusion, x0_net = toy.diffusion_of(case), toy.Net()
    schedule, prediction = diffusion.schedule, diffusion.prediction

    def data(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return x0_net(x * schedule.spread(t, 4) if schedule.scales_input else x, t, cond)

    def net(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        (alpha, sigma), x0 = schedule(t, 4), data(x, t, cond)
        x_t = x * schedule.spread(t, 4) if schedule.scales_input else x
        return prediction.target(x0, (x_t - alpha * x0) / sigma, alpha, sigma)

    def guided(diffusion: Diffusion, net: Backbone) -> Tensor:
        asked = toy.branches(toy.Net())
        assert asked.uncond is not None
        both = Branches(asked.cond._replace(net=net), asked.uncond._replace(net=net))
        return diffusion.denoiser(APG()(both, toy.W, diffusion))(*toy.inputs()).x0

    plain = Diffusion(schedule=schedule, prediction=Sample(), weighting=Uniform())
    torch.testing.assert_close(guided(diffusion, net), guided(plain, data), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("given", [{"momentum": 1.0}, {"norm_threshold": 0.0}])
def test_settings_out_of_range_are_refused(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        APG(**given)
