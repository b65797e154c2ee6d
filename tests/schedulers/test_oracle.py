"""Exact solutions: with the denoiser E[x0 | x_t] of Gaussian data, states lie on the promised levels.

All transitions (t, s) of all step counts 1..1000 of every grid are checked at once. A step is affine in data
and noise, so three probes give its map; if every transition keeps the promised marginal, so does every chain.
"""

from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ldm.diffusion.prediction import Denoised
from ldm.diffusion.timesteps import trailing
from ldm.schedulers import DDIM, DDPM

CONF = Path(__file__).parents[2] / "conf"
MU = 0.7


def group(name):
    return {
        p.stem: instantiate(OmegaConf.load(p), _convert_="all") for p in sorted((CONF / name).glob("*.yaml"))
    }


SCHEDULERS, SCHEDULES, GRIDS = group("scheduler"), group("schedule"), group("timesteps")
FAMILY = {f"{name}.yaml": solver for name, solver in SCHEDULERS.items()}
FAMILY |= {"ddim eta 0.5": DDIM(eta=0.5), "ddim eta 1": DDIM(eta=1.0)}


@cache
def transitions(grid):
    """All different (t, s) of all step counts 1..1000."""
    grids = [GRIDS[grid](1000, n) for n in range(1, 1001)]
    pairs = torch.cat([torch.stack([g[:-1], g[1:]], 1) for g in grids])
    return torch.unique(pairs, dim=0).unbind(1)


def levels(schedule, t):
    log_snr = schedule.log_snr(t)
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def oracle(schedule, std):
    """The exact denoiser of data N(MU, std^2), in float64."""

    def denoise(x, t):
        alpha, sigma = levels(schedule, t)
        var = alpha**2 * std**2 + sigma**2
        d = x - alpha * MU
        return Denoised(MU + alpha * std**2 / var * d, sigma / var * d)

    return denoise


def affine(solver, schedule, t, s, std):
    """The step as x_s = offset + gain x + spread noise, a value each for every transition."""
    zero, one = torch.zeros_like(t), torch.ones_like(t)

    def at(x, z):
        return solver.step(oracle(schedule, std), schedule, x, t, s, None, lambda: z)[0]

    offset = at(zero, zero)
    return offset, at(one, zero) - offset, at(zero, one) - offset


def moments(solver, schedule, t, s, std):
    """Mean and variance of x_s when x_t has its exact marginal."""
    alpha, sigma = levels(schedule, t)
    offset, gain, spread = affine(solver, schedule, t, s, std)
    return offset + gain * alpha * MU, gain**2 * (alpha**2 * std**2 + sigma**2) + spread**2


@pytest.mark.parametrize(("solver", "schedule", "grid"), list(product(FAMILY, SCHEDULES, GRIDS)))
def test_data_at_a_point_stays_on_the_noise_level_of_the_list_for_every_number_of_steps(
    solver, schedule, grid
):
    t, s = transitions(grid)
    alpha_s, sigma_s = levels(SCHEDULES[schedule], s)
    mean, var = moments(FAMILY[solver], SCHEDULES[schedule], t, s, 0.0)
    torch.testing.assert_close(mean, alpha_s * MU, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var, sigma_s**2, rtol=2e-6, atol=0)


@pytest.mark.parametrize(("schedule", "grid"), list(product(SCHEDULES, GRIDS)))
def test_large_variance_is_exact_for_unit_gaussian_data(schedule, grid):
    t, s = (x[transitions(grid)[1] > -1] for x in transitions(grid))
    alpha_s, _ = levels(SCHEDULES[schedule], s)
    mean, var = moments(DDPM(variance="large"), SCHEDULES[schedule], t, s, 1.0)
    torch.testing.assert_close(mean, alpha_s * MU, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var, torch.ones_like(var), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("schedule", "grid"), list(product(SCHEDULES, GRIDS)))
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


@pytest.mark.parametrize(("schedule", "grid"), list(product(SCHEDULES, GRIDS)))
def test_ddpm_is_ddim_at_eta_one(schedule, grid):
    t, s = transitions(grid)
    for ours, other in zip(
        *(affine(solver, SCHEDULES[schedule], t, s, 0.5) for solver in (DDPM(), DDIM(eta=1.0))), strict=True
    ):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("solver", FAMILY)
def test_no_step_depends_on_the_noise_when_it_ends_in_clean_data(solver, grid):
    t, s = (x[transitions(grid)[1] == -1] for x in transitions(grid))
    for schedule in SCHEDULES.values():
        for candidate in (FAMILY[solver], DDPM(variance="large")):
            assert torch.equal(affine(candidate, schedule, t, s, 0.5)[2], torch.zeros_like(t))


@pytest.mark.parametrize("solver", FAMILY)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_variance_of_the_samples_tends_to_that_of_the_data(solver, schedule):
    errors = []
    for n in (30, 100, 300, 1000):
        t, s = (lambda g: (g[:-1], g[1:]))(trailing(1000, n))
        _, gain, spread = affine(FAMILY[solver], SCHEDULES[schedule], t, s, 0.5)
        alpha, sigma = levels(SCHEDULES[schedule], t[:1])
        var = float(alpha**2 * 0.25 + sigma**2)
        for a, c in zip(gain.tolist(), spread.tolist(), strict=True):
            var = a * a * var + c * c
        errors.append(abs(var / 0.25 - 1))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.03
