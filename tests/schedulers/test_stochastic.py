"""Stochastic solvers sample the data: moments of the exact map, and mixtures in Wasserstein's distance."""

import math
from itertools import pairwise

import pytest
import torch

from ldm.diffusion import random
from ldm.diffusion.sampling import sample
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import times_of
from ldm.evaluation.oracle import Mixture, gaussian, sampled_moments
from ldm.schedulers import DDIM, DPM2, Euler, Heun, Restart
from ldm.utils.options import options

SOLVERS, GRIDS, SCHEDULE = options("scheduler"), options("timesteps"), scaled_linear()
NOISY = {name: solver for name, solver in SOLVERS.items() if solver.stochastic and name not in ("lcm", "tcd")}
NOISY |= {"euler churn": Euler(churn=0.1), "heun churn": Heun(churn=0.1), "dpm2 churn": DPM2(churn=0.1)}
NOISY |= {"ddim eta 0.5": DDIM(eta=0.5), "restart": Restart(steps=20)}  # 4 coarse ones have their own error
ROWS = 20_000


@pytest.mark.parametrize("name", NOISY)
def test_the_moments_are_those_of_the_data(name):
    """Without a Monte-Carlo error: what is left is that of 200 steps."""
    found = sampled_moments(
        NOISY[name], SCHEDULE, gaussian(0.5, 0.6), times_of(GRIDS["log_snr"], SCHEDULE, 200)
    )
    assert found.error < 0.035


@pytest.mark.parametrize("name", NOISY)
def test_samples_of_a_mixture_have_its_quantiles_and_weights(name):
    """W2 of 20,000 samples below 0.04; of as many exact ones it is 0.02 with 99 %."""
    data, grid, key = Mixture(), times_of(GRIDS["log_snr"], SCHEDULE, 100), torch.arange(ROWS)
    alpha, sigma = (level.item() for level in SCHEDULE(grid[:1], 1, torch.float64))
    u = (torch.arange(ROWS, dtype=torch.float64) + 0.5) / ROWS
    shuffled = torch.special.ndtri(u)[random.permutation(0, "x", ROWS, 0)]
    start = shuffled * math.sqrt(alpha**2 * 1.2 + sigma**2)  # x_T is Gaussian but for 1e-3
    noise = lambda n, t, s: random.normal(0, "z", key, n).double()  # noqa: E731
    found = sample(data.denoiser(SCHEDULE), SCHEDULE, NOISY[name], start, grid, noise).sort().values
    exact = data.flow(SCHEDULE, _quantiles(data, u), -1.0, float(grid[-1]))
    assert (found - exact).square().mean().sqrt().item() < 0.04
    for low, high in ((-9, -0.5), (-0.5, 0.9), (0.9, 9)):
        got, wanted = (((x > low) & (x < high)).double().mean().item() for x in (found, exact))
        assert got == pytest.approx(wanted, abs=0.01 + 4 * math.sqrt(wanted * (1 - wanted) / ROWS))


def _quantiles(data, u):
    """Of the data itself, by bisection of its distribution function."""
    low, high = torch.full_like(u, -9.0), torch.full_like(u, 9.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = sum(
            p * torch.special.ndtr((middle - m) / data.std)
            for m, p in zip(data.means, data.shares, strict=True)
        )
        low, high = torch.where(below < u, middle, low), torch.where(below < u, high, middle)
    return middle


# The second estimate of a history gives a step of weak order 2, and no more: the noise between has none.
# Churn is noise of each step, however short; restart's rounds have a length of their own.
WEAK_ORDERS = {
    name: min(rule.order, 2) for name, rule in NOISY.items() if "churn" not in name and name != "restart"
}


@pytest.mark.parametrize(
    ("schedule", "n"),
    [("scaled_linear", 50), *(pytest.param(n, 100, marks=pytest.mark.slow) for n in ("flow", "cosine"))],
)
@pytest.mark.parametrize("name", WEAK_ORDERS)
def test_the_error_of_the_moments_falls_with_the_weak_order(name, schedule, n):
    """On equal steps in the log-SNR, whose errors have one sign."""
    levels, data = options("schedule")[schedule], gaussian(0.5, 0.6)
    errors = []
    for count in (n, 2 * n):
        found = sampled_moments(NOISY[name], levels, data, times_of(GRIDS["log_snr"], levels, count))
        errors.append(abs(found.std - found.exact_std))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(WEAK_ORDERS[name], abs=0.15)


@pytest.mark.parametrize("name", [name for name in NOISY if name != "restart" and "churn" not in name])
def test_the_draws_of_a_run_are_for_disjoint_transitions(name):
    """A Brownian path then gives them the distribution of independent ones."""
    asked = []

    def noise(n, t, s):
        asked.append((float(t), float(s)))
        return torch.zeros(3, dtype=torch.float64)

    for grid in ("trailing", "karras"):
        asked.clear()
        times, denoise = times_of(GRIDS[grid], SCHEDULE, 8), Mixture().denoiser(SCHEDULE)
        sample(denoise, SCHEDULE, NOISY[name], torch.ones(3).double(), times, noise)
        assert all(a > b for a, b in asked)
        assert all(first[1] >= second[0] for first, second in pairwise(asked))
