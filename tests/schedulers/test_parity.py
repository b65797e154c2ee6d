"""Trajectories of 20 steps against diffusers' solvers, where those are right, on one list of noise levels."""

import math

import pytest
import torch

from ldm.diffusion.prediction import Epsilon
from ldm.diffusion.process import Diffusion
from ldm.diffusion.sampling import sample
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import leading, trailing
from ldm.diffusion.weighting import Uniform
from ldm.schedulers import DPM2, PLMS, Adams, DPMSolverPP, Euler, Heun, UniPC, multistep

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of diffusers

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULE = scaled_linear()
DIFFUSION = Diffusion(schedule=SCHEDULE, prediction=Epsilon(), weighting=Uniform())
STEPS = 20


def net(x_t, t):
    return (x_t * (1 + t.view(-1, 1, 1, 1) / 1000)).sin()


def start():
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def ours(solver, grid, noise=lambda i, t, s: start()):
    return sample(DIFFUSION.denoiser(net), SCHEDULE, solver, start(), grid, noise)


def theirs(name, scaled=False, **options):
    """The trajectory of a solver of diffusers; the scaled ones work on x / alpha."""
    diffusers = pytest.importorskip("diffusers")
    options = {"timestep_spacing": "trailing", **BETAS, **options}
    scheduler = getattr(diffusers, name)(num_train_timesteps=1000, **options)
    scheduler.set_timesteps(STEPS)
    x = start()
    if scaled:  # ours starts with variance 1 at the first level, theirs with sigma
        x = x / SCHEDULE(scheduler.timesteps[:1].double(), 4, torch.float64)[0]
    for t in scheduler.timesteps:
        # the net is asked at our time: in float32 their table is off by 1e-7
        out = net(scheduler.scale_model_input(x, t).double(), t.double().expand(2))
        x = scheduler.step(out, t, x, return_dict=False)[0].double()
    return x


def assert_close(found, expected):
    assert ((found - expected).abs().max() / expected.abs().max()).item() <= 1e-4


@pytest.mark.parametrize(
    ("solver", "name", "options"),
    [
        (Euler(), "EulerDiscreteScheduler", {"scaled": True}),
        (Adams(), "LMSDiscreteScheduler", {"scaled": True}),
        (Heun(), "HeunDiscreteScheduler", {"scaled": True}),
        (DPM2(), "KDPM2DiscreteScheduler", {"scaled": True}),
        (DPMSolverPP(order=1), "DPMSolverMultistepScheduler", {"solver_order": 1}),
        (DPMSolverPP(), "DPMSolverMultistepScheduler", {"solver_order": 2}),
        (Adams(order=2, variable="log_sigma"), "DEISMultistepScheduler", {"solver_order": 2}),
        (Adams(order=3, variable="log_sigma"), "DEISMultistepScheduler", {"solver_order": 3}),
        (UniPC(), "UniPCMultistepScheduler", {"solver_order": 2}),
    ],
)
def test_trailing_grids_agree(solver, name, options):
    final = {} if options.get("scaled") or "UniPC" in name or "DPMSolver" in name else {"final": 0.0}
    extra = {"final_sigmas_type": "zero"} if "UniPC" in name or "DPMSolver" in name else {}
    assert_close(ours(solver, trailing(1000, STEPS, **final)), theirs(name, **extra, **options))


def test_plms_on_stable_diffusions_grid():
    grid = leading(1000, STEPS, offset=1, final=0.0)
    options = {"timestep_spacing": "leading", "steps_offset": 1, "skip_prk_steps": True}
    assert_close(ours(PLMS(), grid), theirs("PNDMScheduler", **options))


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (UniPC(variant="bh1"), {"solver_order": 2, "solver_type": "bh1", "lower_order_final": False}),
        (UniPC(order=3), {"solver_order": 3, "lower_order_final": False}),
        (
            UniPC(order=3, variant="bh1"),
            {"solver_order": 3, "solver_type": "bh1", "lower_order_final": False},
        ),
    ],
)
def test_unipc_agrees_where_the_last_level_has_noise(solver, options, monkeypatch):
    """To clean data theirs is NaN (bh1) or stops with a singular matrix (order 3)."""
    expected = theirs("UniPCMultistepScheduler", final_sigmas_type="sigma_min", **options)
    with monkeypatch.context() as patch:  # theirs has no guard of long steps
        for name in ("MAX_GROWTH", "MAX_GROWTH_FURTHER", "MAX_SPAN"):
            patch.setattr(multistep, name, math.inf)
        assert_close(ours(solver, trailing(1000, STEPS, final=0.0)), expected)
    assert ours(solver, trailing(1000, STEPS)).isfinite().all()
