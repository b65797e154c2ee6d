"""Single steps and short runs against diffusers' consistency, flow-matching and stochastic Adams solvers."""

import sys
from itertools import pairwise

import pytest
import torch

from ldm.diffusion.continuous import FlowMatching
from ldm.diffusion.prediction import Denoised
from ldm.diffusion.sampling import sample
from ldm.diffusion.schedule import scaled_linear
from ldm.schedulers import LCM, TCD, Euler, Heun

diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
SCHEDULE = scaled_linear()


def normal(seed):
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).double()


def net(x, t):
    """What the net says: eps, or the velocity of a flow."""
    return (x * (1 + t.view(-1, 1, 1, 1) / 1000)).sin()


def eps_denoiser(x, t):
    alpha, sigma = SCHEDULE(t, x.ndim, torch.float64)
    eps = net(x, t)
    return Denoised((x - sigma * eps) / alpha, eps)


def close(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item() <= 1e-4


@pytest.mark.parametrize(
    ("name", "solver", "options", "end"),
    [("LCMScheduler", LCM(), {}, -1.0), ("TCDScheduler", TCD(gamma=0.3), {"eta": 0.3}, 0.0)],
)
def test_steps_of_consistency_models_are_those_of_diffusers(name, solver, options, end, monkeypatch):
    scheduler = getattr(diffusers, name)(**BETAS, set_alpha_to_one=True, original_inference_steps=50)
    scheduler.set_timesteps(4)
    module = sys.modules[type(scheduler).__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: normal(7))
    times = [*scheduler.timesteps.double(), torch.tensor(end).double()]
    x = normal(0)
    for t, s in pairwise(times):
        theirs = scheduler.step(net(x, t.view(1)), t.long(), x, return_dict=False, **options)[0]
        ours, _ = solver.step(eps_denoiser, SCHEDULE, x, t.view(1), s.view(1), None, lambda a, b: normal(7))
        assert close(ours, theirs.double()), (t, s)
        x = ours


@pytest.mark.parametrize(
    ("name", "solver"),
    [("FlowMatchEulerDiscreteScheduler", Euler()), ("FlowMatchHeunDiscreteScheduler", Heun(path="flow"))],
)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_runs_are_those_of_diffusers(name, solver, shift):
    scheduler = getattr(diffusers, name)(shift=shift)
    scheduler.set_timesteps(20)
    schedule, x = FlowMatching(), normal(0)  # their levels say the shift
    sigmas = scheduler.sigmas.double()
    grid = schedule.time(-2 * torch.log(sigmas / (1 - sigmas)))
    grid[sigmas == 0] = -1.0

    def denoise(x_t, t):
        alpha, sigma = schedule(t, x_t.ndim, torch.float64)
        v = net(x_t, 1000 * sigma.flatten())
        return Denoised(x_t - sigma * v, x_t + alpha * v)

    grid = torch.cat([grid[:1], grid[1:][grid[1:] != grid[:-1]]])  # Heun's list has the inner levels twice
    ours = sample(denoise, schedule, solver, x, grid, lambda n, t, s: x)
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t.double().view(1)), t, x, return_dict=False)[0].double()
    assert close(ours, x)
