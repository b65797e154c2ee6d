"""diffusers beside ours on exact solutions: equal where it is right, off its own levels where not."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import times_of, trailing
from ldm.evaluation.oracle import Mixture, gaussian, level_error, sampled_moments
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
    ("solver", "grid"),
    [
        ("lcm", "trailing"),
        ("tcd", "leading"),
        *(("heun", "sd15"), ("dpm2", "sd15"), ("dpm2_a", "sd15"), ("lms", "sd15"), ("ddpm", "sd15")),
        *(("euler", "linspace"), ("dpm2", "linspace"), ("dpm2_a", "linspace"), ("deis", "trailing")),
    ],
)
def test_on_its_levels_ours_has_its_moments(solver, grid, peers):
    """Where the two differ, they end at other levels, or diffusers does not round its times."""
    ours = sampled_moments(SOLVERS[solver], SCHEDULE, DATA, peers.levels(solver, grid, 20, SCHEDULE))
    *_, (mean, std, _, _) = peers.moments(solver, grid, 20, SCHEDULE, DATA)
    assert (ours.mean, ours.std) == pytest.approx((mean, std), rel=1e-4)


@pytest.mark.parametrize("grid", ["karras", "exponential"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_its_multistep_rules_are_ours_where_they_name_the_time_of_their_level(solver, grid, peers):
    """On these grids they name a rounded time to the net: all that makes a difference."""
    scheduler, grid_ = peers.make(solver, grid, 20), peers.levels(solver, grid, 20, SCHEDULE)
    ours = sampled_moments(SOLVERS[solver], SCHEDULE, DATA, grid_)
    assert not torch.equal(scheduler.timesteps.double(), grid_[:-1])

    class Unrounded(Mixture):
        def denoiser(self, schedule):
            exact, times = DATA.denoiser(schedule), iter(grid_.split(1))
            return lambda x, t: exact(x, next(times))

    data = Unrounded(means=DATA.means, shares=DATA.shares, std=DATA.std)
    *_, (mean, std, _, _) = peers.moments(solver, grid, 20, SCHEDULE, data)
    assert (ours.mean, ours.std) == pytest.approx((mean, std), abs=2e-4)  # its levels are in float32
    *_, (_, rounded, _, _) = peers.moments(solver, grid, 20, SCHEDULE, DATA)
    assert rounded != pytest.approx(ours.std, rel=1e-4)


@pytest.mark.parametrize(("solver", "stages"), [("dpmpp_2s", 2), ("dpmpp_3s", 3)])
def test_its_singlestep_rules_have_the_evaluations_of_ours(solver, stages, peers):
    """Their stages are points of the grid, which therefore has so many times more."""
    assert len(peers.make(solver, "trailing", 10).timesteps) == 10 * stages
    *_, (_, std, _, exact) = peers.moments(solver, "trailing", 20, SCHEDULE, DATA)
    ours = sampled_moments(SOLVERS[solver], SCHEDULE, DATA, times_of(GRIDS["trailing"], SCHEDULE, 20))
    assert abs(std - exact) < abs(ours.std - ours.exact_std)  # the last step starts lower


def test_its_solver_of_the_sde_draws_one_path_for_stage_and_step(peers):
    """The second half of a step has the noise of the first and more: of unit variance, and correlated."""
    path = peers.brownian(torch.tensor([4.0, 1.0, 0.25, 0.0]), torch.zeros(12, dtype=torch.float64))
    stage, step = (path(torch.tensor(4.0), torch.tensor(end)).flatten() for end in (2.0, 1.0))
    assert float(stage @ stage) == pytest.approx(1.0)
    assert float(step @ step) == pytest.approx(1.0)
    assert float(stage @ step) == pytest.approx((2 / 3) ** 0.5)
    assert float(step @ path(torch.tensor(1.0), torch.tensor(0.25)).flatten()) == 0.0


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
