"""Deterministic solvers converge with their order to the exact flow of a mixture of Gaussians, in float64.

The grid is uniform in the log-SNR. Multistep rules begin with a step of first order, whose error of h^2
stays: their order beyond 2 shows in a single step after exact estimates, with an error of h^(order + 1).
"""

import math
from functools import cache
from itertools import pairwise

import pytest
import torch

from ldm.cli.groups import options
from ldm.diffusion.prediction import Denoised, noise_in
from ldm.diffusion.sampling import sample
from ldm.schedulers import Adams, DPMSolverPP, DPMSolverPPSingle, SASolver, UniPC
from ldm.schedulers.multistep import Estimate
from ldm.schedulers.predictor_corrector import Pending

SCHEDULERS, SCHEDULES = options("scheduler"), options("schedule")
MEANS = torch.tensor([-1.2, 0.4, 1.3], dtype=torch.float64)
SHARES = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
STD = 0.4
NAMES = ["scaled_linear", "flow", "edm"]
DETERMINISTIC = [name for name, solver in SCHEDULERS.items() if not solver.stochastic]


def mixture(schedule):
    """The exact denoiser."""

    def denoise(x, t):
        alpha, sigma = schedule(t, x.ndim, torch.float64)
        var = (alpha**2 * STD**2 + sigma**2)[:, None]
        d = x[:, None] - alpha[:, None] * MEANS
        share = (SHARES.log() - d**2 / var / 2).softmax(1)
        x0 = (share * (MEANS + alpha[:, None] * STD**2 / var * d)).sum(1)
        return Denoised(x0, noise_in(x, x0, alpha, sigma))

    return denoise


def grid(schedule, n, first=900.0, last=20.0):
    ends = schedule.log_snr(torch.tensor([first, last], dtype=torch.float64))
    return schedule.time(ends[0] + (ends[1] - ends[0]) * torch.linspace(0, 1, n + 1, dtype=torch.float64))


def run(solver, name, n, x, **ends):
    def no_noise(i, t, s):
        raise AssertionError("a deterministic solver draws no noise")

    schedule = SCHEDULES[name]
    return sample(mixture(schedule), schedule, solver, x, grid(schedule, n, **ends), no_noise)


@cache
def exact(name):
    """Start and end of some trajectories."""
    schedule = SCHEDULES[name]
    start = torch.linspace(-2, 2, 16, dtype=torch.float64) * schedule.spread(
        grid(schedule, 1)[:1], 1, torch.float64
    )
    return start, run(DPMSolverPPSingle(order=3), name, 800, start)


def slope(errors):
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n != "flow" else n for n in NAMES]
)
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_the_error_falls_with_the_order_of_the_solver(solver, name):
    start, end = exact(name)
    rule = SCHEDULERS[solver]
    errors = [(run(rule, name, n, start) - end).abs().max().item() for n in (80, 160)]
    order = rule.order if rule.evaluations > 1 else min(rule.order, 2)
    assert slope(errors) > order - 0.15
    assert slope(errors) < order + 0.15 or rule.evaluations == 1


RULES = {f"dpm++ {p}": (DPMSolverPP(order=p), p) for p in (1, 2, 3)}
RULES |= {f"adams {p} in sigma": (Adams(order=p), p) for p in (1, 2, 3, 4)}
RULES |= {f"adams {p} in log sigma": (Adams(order=p, variable="log_sigma"), p) for p in (1, 2, 3, 4)}
RULES |= {f"unipc {p} {b}": (UniPC(order=p, variant=b), p) for p in (1, 2, 3) for b in ("bh1", "bh2")}
RULES |= {f"sa {p}": (SASolver(order=p, corrector_order=p, tau=0.0), p) for p in (1, 2, 3, 4)}


@cache
def neighbours(name, width):
    """Six times, the widths apart in log-SNR, with the exact states and estimates: history, now, target."""
    schedule, fine = SCHEDULES[name], DPMSolverPPSingle(order=3)
    now = schedule.log_snr(torch.tensor([700.0], dtype=torch.float64))
    times = [schedule.time(now + width * i) for i in range(-4, 2)]
    states = [run(fine, name, 100, exact(name)[0], last=times[0].item())]
    for t, s in pairwise(times):
        states.append(run(fine, name, 40, states[-1], first=t.item(), last=s.item()))
    return times, states, [mixture(schedule)(x, t) for x, t in zip(states, times, strict=True)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", RULES)
def test_a_step_after_exact_estimates_has_the_error_of_its_order(rule, name):
    solver, order = RULES[rule]
    schedule, errors = SCHEDULES[name], []
    for width in (0.1, 0.05):
        times, states, found = neighbours(name, width)
        state = tuple(
            Estimate(
                schedule.log_snr(times[i]) / 2, found[i].eps if isinstance(solver, Adams) else found[i].x0
            )
            for i in (3, 2, 1, 0)
        )
        if isinstance(solver, UniPC | SASolver):  # they also correct the last step, here an exact one
            state = Pending(states[3], times[3], None, state)
        args = (mixture(schedule), schedule, states[4], times[4], times[5], state, lambda t, s: t)
        errors.append((solver.step(*args)[0] - states[5]).abs().max().item())
    assert slope(errors) > order + 1 - 0.3
