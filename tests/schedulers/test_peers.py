"""diffusers beside ours on exact solutions: equal where it is right, off its own levels where not."""

import importlib.util
from pathlib import Path

import pytest

from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import times_of, trailing
from ldm.evaluation.oracle import gaussian, level_error, sampled_moments
from ldm.schedulers import SASolver, predictor_corrector
from ldm.utils.options import options

pytest.importorskip("diffusers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
FILE = Path(__file__).parents[2] / "experiments" / "sampler_certificate" / "peers.py"
SCHEDULE, DATA = scaled_linear(), gaussian(0.5, 0.6)
SOLVERS, GRIDS = options("scheduler"), options("timesteps")
RIGHT = [
    (solver, grid)
    for grid in ("leading", "trailing")
    for solver in ("ddim", "ddpm", "euler", "euler_a", "heun", "dpm2", "dpm2_a", "lms", "plms")
]
RIGHT += [("dpmpp_2m", "trailing"), ("dpmpp_2m_sde", "trailing"), ("plms", "sd15"), ("deis", "sd15")]


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("peers", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("solver", "grid"), RIGHT)
def test_twenty_steps_have_the_moments_of_diffusers(solver, grid, peers):
    """Mean and deviation of all that the solver makes of Gaussian noise, its own draws included."""
    ours = sampled_moments(SOLVERS[solver], SCHEDULE, DATA, times_of(GRIDS[grid], SCHEDULE, 20))
    *_, (mean, std, _, _) = peers.moments(solver, grid, 20, SCHEDULE, DATA)
    tolerance = 2e-4 if solver == "deis" else 1e-4
    assert ours.mean == pytest.approx(mean, rel=tolerance)
    assert ours.std == pytest.approx(std, rel=tolerance)


@pytest.mark.parametrize(
    ("solver", "grid", "steps", "off", "issue"),
    [
        ("ddim", "linspace", 10, 9, 12633),
        ("ddim", "linspace", 5, 4, 11347),
        ("ddim", "trailing", 30, 28, 9261),
        ("ddim", "trailing", 13, None, 9261),
        ("plms", "linspace", 10, None, 12633),
    ],
)
def test_its_ddim_leaves_the_grid_and_ours_does_not(solver, grid, steps, off, issue, peers):
    found = list(peers.moments(solver, grid, steps, SCHEDULE, gaussian(0.7, 0.0)))[:-1]
    wrong = sum(max(abs(m - a), abs(s - b)) > 1e-5 for m, s, a, b in found)
    assert wrong > 0 if off is None else wrong == off
    grid_ = times_of(GRIDS[grid], SCHEDULE, steps)
    assert level_error(SOLVERS[solver], SCHEDULE, grid_[:-1], grid_[1:]) < 1e-12


def test_its_own_grid_of_stable_diffusion_crashes_with_1000_steps(peers):
    """Issue 10003."""
    with pytest.raises(IndexError):
        list(peers.moments("ddim", "sd15", 1000, SCHEDULE, DATA))
    ours = sampled_moments(SOLVERS["ddim"], SCHEDULE, DATA, times_of(GRIDS["sd15"], SCHEDULE, 1000))
    assert ours.error < 0.01


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_its_stochastic_adams_rule_is_ours_and_overshoots_where_ours_is_held_back(tau, peers, monkeypatch):
    """Of order 3, the corrector with the new estimate; the last step of this grid is a long one."""
    given = {
        "predictor_order": 3,
        "corrector_order": 3,
        "tau_func": lambda t: tau,
        "lower_order_final": False,
    }
    monkeypatch.setitem(peers.SOLVERS, "sa", ("SASolverScheduler", given))
    *_, (mean, std, _, exact) = peers.moments("sa", "trailing", 20, SCHEDULE, DATA)
    solver, grid = SASolver(order=3, corrector_order=2, tau=tau), trailing(1000, 20, final=0.0)
    held = sampled_moments(solver, SCHEDULE, DATA, grid)
    monkeypatch.setattr(predictor_corrector, "steady", lambda history, h: history)
    ours = sampled_moments(solver, SCHEDULE, DATA, grid)
    assert ours.mean == pytest.approx(mean, rel=1e-4)
    assert ours.std == pytest.approx(std, rel=1e-4)
    assert abs(held.std - exact) < abs(std - exact)
