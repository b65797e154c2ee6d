"""`on_step` replaces the data for every solver: what it returns is where the next step starts."""

from itertools import product

import pytest
import torch

from ldm.diffusion.sampling import sample
from ldm.diffusion.timesteps import times_of
from ldm.evaluation.oracle import gaussian
from ldm.utils.options import options

SOLVERS, SCHEDULES, GRIDS = options("scheduler"), options("schedule"), options("timesteps")
STEPS, REPLACED = 5, 2
NORMAL = [("scaled_linear", "trailing"), ("flow", "sd15")]
CASES = [
    pair if pair in NORMAL else pytest.param(*pair, marks=pytest.mark.slow)
    for pair in product(SCHEDULES, ("trailing", "sd15", "karras"))
]
START = torch.linspace(-2, 2, 6, dtype=torch.float64)
ELSEWHERE = START.flip(0) * 3 + 1


def noise(n, t, s):
    """Of the transition, whatever its number."""
    return torch.sin(1e3 * (START + float(t) + 7 * float(s)))


def grid_of(name, schedule):
    """A grid that ends at t = 0, where the data still depends on the path."""
    times = times_of(GRIDS[name], schedule, STEPS)
    return torch.cat([times[:-1], times.new_zeros(1)]) if times[-2] > 0 else times[:-1]


def run(solver, schedule, times, start, on_step=None):
    """Samples of data at a point, whose estimates are the same on every path."""
    denoise = gaussian(0.7, 0.0).denoiser(schedule)
    return sample(denoise, schedule, SOLVERS[solver], start, times, noise, on_step)


@pytest.mark.parametrize(("schedule", "grid"), CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_sampling_goes_on_from_the_replaced_data(solver, schedule, grid):
    levels = SCHEDULES[schedule]
    times = grid_of(grid, levels)

    def on_step(i, x, x0):
        return ELSEWHERE if i == REPLACED else None

    found = run(solver, levels, times, START, on_step)
    wanted = run(solver, levels, times[REPLACED + 1 :], ELSEWHERE)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_elements_that_it_leaves_are_sampled_as_without_it(solver):
    """Inpainting replaces the known region only."""
    levels = SCHEDULES["scaled_linear"]
    times = grid_of("trailing", levels)
    known = START > 0

    def on_step(i, x, x0):
        return torch.where(known, ELSEWHERE, x)

    found, plain = (run(solver, levels, times, START, f) for f in (on_step, None))
    assert torch.equal(found[~known], plain[~known])
    assert torch.equal(found[known], ELSEWHERE[known])
