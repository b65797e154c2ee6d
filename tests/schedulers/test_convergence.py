"""Deterministic solvers converge with their order to the exact flow of a mixture of Gaussians, in float64.

The grid is uniform in the log-SNR. Multistep rules begin with a step of first order, whose error of h^2
stays: their order beyond 2 shows in a single step after exact estimates, with an error of h^(order + 1).
"""

import math
from functools import cache

import pytest
import torch

from ldm.evaluation.oracle import Mixture, flow_error
from ldm.schedulers import Adams, DPMSolverPP, SASolver, UniPC
from ldm.schedulers.multistep import Estimate, Path
from ldm.schedulers.predictor_corrector import Pending
from ldm.utils.options import options

SCHEDULERS, SCHEDULES = options("scheduler"), options("schedule")
DATA = Mixture()
NAMES = ["scaled_linear", "flow", "edm"]
DETERMINISTIC = [name for name, solver in SCHEDULERS.items() if not solver.stochastic]


def grid(schedule, n, first=900.0, last=20.0):
    ends = schedule.log_snr(torch.tensor([first, last], dtype=torch.float64))
    return schedule.time(ends[0] + (ends[1] - ends[0]) * torch.linspace(0, 1, n + 1, dtype=torch.float64))


@cache
def starts(name):
    """Where some trajectories start."""
    schedule = SCHEDULES[name]
    return torch.linspace(-2, 2, 16, dtype=torch.float64) * schedule.spread(
        grid(schedule, 1)[:1], 1, torch.float64
    )


def slope(errors):
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n != "flow" else n for n in NAMES]
)
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_the_error_falls_with_the_order_of_the_solver(solver, name):
    rule, schedule = SCHEDULERS[solver], SCHEDULES[name]
    errors = [flow_error(rule, schedule, DATA, grid(schedule, n)) for n in (80, 160)]
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
    schedule = SCHEDULES[name]
    now = schedule.log_snr(torch.tensor([700.0], dtype=torch.float64))
    times = [schedule.time(now + width * i) for i in range(-4, 2)]
    states = [DATA.flow(schedule, starts(name), 900.0, time.item()) for time in times]
    return times, states, [DATA.denoiser(schedule)(x, t) for x, t in zip(states, times, strict=True)]


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
            state = Pending(states[3], times[3], None, state, states[4])
        if isinstance(solver, Adams):
            state = Path(state, states[4])
        args = (DATA.denoiser(schedule), schedule, states[4], times[4], times[5], state, lambda t, s: t)
        errors.append((solver.step(*args)[0] - states[5]).abs().max().item())
    assert slope(errors) > order + 1 - 0.3
