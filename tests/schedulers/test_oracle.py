"""Exact solutions: with the denoiser E[x0 | x_t] of Gaussian data, states lie on the promised levels.

Transitions (t, s) of many step counts of every grid are checked at once, those of all counts 1..1000 in the
slow tests. A step is affine in data and noise, so probes give its map; if every transition keeps the promised
marginal, so does every chain.
"""

from functools import cache
from itertools import product

import pytest
import torch

from ldm.diffusion.schedule import Tabulated
from ldm.diffusion.timesteps import leading, linspace, trailing
from ldm.evaluation.oracle import gaussian, marginal, step_map
from ldm.schedulers import DDIM, DDPM, LCM, TCD, DPMSolverPP, DPMSolverPPSingle, Euler, Heun, SASolver, UniPC
from ldm.utils.options import options

MU = 0.7
FEW = (*range(1, 21), 25, 30, 50, 100, 250, 500, 999, 1000)
ALL = tuple(range(1, 1001))

SCHEDULERS, SCHEDULES = options("scheduler"), options("schedule")
GRIDS = {"leading": leading, "linspace": linspace, "trailing": trailing}
PRESERVING = [name for name, schedule in SCHEDULES.items() if isinstance(schedule, Tabulated)]
FAMILY = {f"{name}.yaml": solver for name, solver in SCHEDULERS.items()}
FAMILY |= {"ddim eta 0.5": DDIM(eta=0.5), "heun churn": Heun(churn=0.3), "tcd 1": TCD(gamma=1.0)}
EXACT = [name for name, solver in FAMILY.items() if not isinstance(solver, LCM)]
CLASSIC = {"ddpm": DDPM(), "ddim": DDIM(), "ddim eta 0.5": DDIM(eta=0.5), "ddim eta 1": DDIM(eta=1.0)}


@cache
def transitions(grid, counts=FEW):
    """All different (t, s) of some step counts."""
    grids = [GRIDS[grid](1000, n) for n in counts]
    pairs = torch.cat([torch.stack([g[:-1], g[1:]], 1) for g in grids])
    return torch.unique(pairs, dim=0).unbind(1)


def levels(schedule, t):
    return schedule(t, 1, torch.float64)


def affine(solver, schedule, t, s, std):
    return step_map(solver, schedule, gaussian(MU, std), t, s)


def moments(solver, schedule, t, s, std):
    """Mean and variance of x_s when x_t has its exact marginal."""
    data = gaussian(MU, std)
    return step_map(solver, schedule, data, t, s).moments(*marginal(schedule, data, t))


def check_levels(solver, schedule, t, s):
    alpha_s, sigma_s = levels(schedule, s)
    mean, var = moments(solver, schedule, t, s, 0.0)
    torch.testing.assert_close(mean, alpha_s * MU, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var, sigma_s**2, rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize(("solver", "schedule", "grid"), list(product(EXACT, SCHEDULES, GRIDS)))
def test_data_at_a_point_stays_on_the_noise_level_of_the_list(solver, schedule, grid):
    check_levels(FAMILY[solver], SCHEDULES[schedule], *transitions(grid))


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "schedule", "grid"), list(product(EXACT, SCHEDULES, GRIDS)))
def test_data_at_a_point_stays_on_the_noise_level_for_every_number_of_steps(solver, schedule, grid):
    check_levels(FAMILY[solver], SCHEDULES[schedule], *transitions(grid, ALL))


@pytest.mark.parametrize(("solver", "schedule"), list(product(FAMILY, SCHEDULES)))
def test_every_step_is_finite(solver, schedule):
    t, s = transitions("trailing")
    for value in moments(FAMILY[solver], SCHEDULES[schedule], t, s, 0.5):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize(("schedule", "grid"), list(product(PRESERVING, GRIDS)))
def test_large_variance_is_exact_for_unit_gaussian_data(schedule, grid):
    t, s = (x[transitions(grid)[1] > -1] for x in transitions(grid))
    alpha_s, _ = levels(SCHEDULES[schedule], s)
    mean, var = moments(DDPM(variance="large"), SCHEDULES[schedule], t, s, 1.0)
    torch.testing.assert_close(mean, alpha_s * MU, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var, torch.ones_like(var), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("schedule", "grid"), list(product(PRESERVING, GRIDS)))
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_moves_gaussian_data_as_its_closed_form(eta, schedule, grid):
    """Song et al. 2021, Eq. 12 and 16, in their own terms of alpha-bar."""
    t, s = transitions(grid)
    schedule, std = SCHEDULES[schedule], 0.5
    a_t, a_s = (levels(schedule, x)[0] ** 2 for x in (t, s))
    drawn = eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
    var_t = a_t * std**2 + 1 - a_t
    gain = ((a_s * a_t).sqrt() * std**2 + (1 - a_s - drawn).clamp(min=0).sqrt() * (1 - a_t).sqrt()) / var_t
    mean, var = moments(DDIM(eta=eta), schedule, t, s, std)
    torch.testing.assert_close(mean, a_s.sqrt() * MU, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var, gain**2 * var_t + drawn, rtol=1e-5, atol=1e-7)


def assert_same(schedule, grid, solver, other):
    t, s = transitions(grid)
    pairs = zip(*(affine(one, SCHEDULES[schedule], t, s, 0.5) for one in (solver, other)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


IDENTITIES = {
    "ddpm is ddim at eta 1": (DDPM(), DDIM(eta=1.0)),
    "euler is ddim": (Euler(), DDIM()),
    "dpm++ of order 1 is ddim": (DPMSolverPP(order=1), DDIM()),
    "dpm++ sde of order 1 is ddim at eta 1": (DPMSolverPP(order=1, eta=1.0), DDIM(eta=1.0)),
    "unipc of order 1 is ddim": (UniPC(order=1, correct=False), DDIM()),
    "single dpm++ of order 1 with noise is ddim": (DPMSolverPPSingle(order=1, eta=0.6), DDIM(eta=0.6)),
    "sa of order 1 at tau 0 is ddim": (SASolver(order=1, corrector_order=0, tau=0.0), DDIM()),
    "sa of order 1 at tau 1 is ddim at eta 1": (SASolver(order=1, corrector_order=0), DDIM(eta=1.0)),
    "tcd without noise is ddim": (TCD(gamma=0.0), DDIM()),
}


@pytest.mark.parametrize(("schedule", "grid"), list(product(SCHEDULES, GRIDS)))
@pytest.mark.parametrize("identity", IDENTITIES)
def test_solvers_that_are_the_same(identity, schedule, grid):
    assert_same(schedule, grid, *IDENTITIES[identity])


@pytest.mark.parametrize("name", ["scaled_linear", "edm", "flow"])
def test_ddim_is_eulers_method_in_sigma(name):
    schedule = SCHEDULES[name]
    t, s = (x[transitions("leading")[0] < 999] for x in transitions("leading"))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(schedule, t), levels(schedule, s)
    x = torch.linspace(-2, 2, len(t), dtype=torch.float64)
    found = gaussian(MU, 0.5).denoiser(schedule)(x, t).eps
    euler = alpha_s * (x / alpha_t + (sigma_s / alpha_s - sigma_t / alpha_t) * found)
    ours, _ = Euler().step(gaussian(MU, 0.5).denoiser(schedule), schedule, x, t, s, None, lambda t, s: x)
    torch.testing.assert_close(ours, euler, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("solver", [name for name in FAMILY if "churn" not in name and "restart" not in name])
def test_no_step_depends_on_the_noise_when_it_ends_in_clean_data(solver, grid):
    """But for Restart, which samples anew within the step that passes its lower end."""
    t, s = (x[transitions(grid)[1] == -1] for x in transitions(grid))
    for schedule in SCHEDULES.values():
        for candidate in (FAMILY[solver], DDPM(variance="large")):
            for spread in affine(candidate, schedule, t, s, 0.5)[2]:
                assert torch.equal(spread, torch.zeros_like(t))


@pytest.mark.parametrize("solver", CLASSIC)
@pytest.mark.parametrize("schedule", PRESERVING)
def test_the_variance_of_the_samples_tends_to_that_of_the_data(solver, schedule):
    errors = []
    for n in (30, 100, 300, 1000):
        t, s = (lambda g: (g[:-1], g[1:]))(trailing(1000, n))
        _, gain, spreads = affine(CLASSIC[solver], SCHEDULES[schedule], t, s, 0.5)
        alpha, sigma = levels(SCHEDULES[schedule], t[:1])
        var = float(alpha**2 * 0.25 + sigma**2)
        for i, a in enumerate(gain.tolist()):
            var = a * a * var + sum(float(spread[i]) ** 2 for spread in spreads)
        errors.append(abs(var / 0.25 - 1))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.03
