"""Increments of Brownian motion: standard normal, of one path for all step counts, refined by more steps."""

import math
from itertools import pairwise

import pytest
import torch

from ldm.diffusion import random
from ldm.diffusion.brownian import DEPTH, BrownianPath, deviation, step_noise
from ldm.diffusion.level_grids import log_snr
from ldm.diffusion.prediction import Denoised
from ldm.diffusion.sampling import sample
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import trailing
from ldm.schedulers import DDIM, DDPM, DPMSolverPP, DPMSolverPPSingle, Euler, Restart, SASolver

ROWS = 20_000
KEY = torch.arange(ROWS)


def normal(n, rows=ROWS):
    return random.normal(0, "step", KEY[:rows], n).double()


def path():
    return BrownianPath(normal, 1000)


def draw(source, t, s):
    return source(0, *torch.tensor([[t], [s]], dtype=torch.float64))


@pytest.mark.parametrize(("t", "s"), [(999, -1), (999, 500), (500.3, 499.1), (20.01, 20.0), (0, -1)])
def test_an_increment_is_standard_normal(t, s):
    z = draw(path(), t, s).sort().values
    expected = torch.special.ndtri((torch.arange(ROWS, dtype=torch.float64) + 0.5) / ROWS)
    assert (z - expected)[200:-200].abs().max() < 0.1
    assert abs(z.std().item() - 1) < 4 / math.sqrt(2 * ROWS)


def test_increments_add_up_whatever_the_steps():
    source, times = path(), [999.0, 701.2, 700.9, 350.0, 12.5, -1.0]
    shares = [(t + 1) / 1000 for t in times]
    parts = [
        draw(source, t, s) * deviation(b, a)
        for (t, s), (a, b) in zip(pairwise(times), pairwise(shares), strict=True)
    ]
    torch.testing.assert_close(sum(parts), draw(source, 999, -1) * deviation(0.0, 1.0))


def test_increments_of_different_steps_are_independent():
    source, times = path(), [999.0, 700.0, 699.0, 300.0, 299.5, -1.0]
    z = torch.stack([draw(source, t, s) for t, s in pairwise(times)])
    assert (torch.corrcoef(z) - torch.eye(5)).abs().max() < 5 / math.sqrt(ROWS)


def test_the_deviation_is_that_of_a_walk_that_is_linear_in_its_cells():
    h = 2.0**-DEPTH
    for low, high in ((0.0, 1.0), (0.1, 0.9), (3.2 * h, 3.7 * h), (3.2 * h, 4.7 * h), (5 * h, 9 * h)):
        cells = torch.arange(2**DEPTH, dtype=torch.float64) * h
        overlap = (torch.clamp(cells + h, max=high) - torch.clamp(cells, min=low)).clamp(min=0)
        assert deviation(low, high) == pytest.approx((overlap.square().sum() / h).sqrt().item(), rel=1e-9)
    with pytest.raises(ValueError, match="must lead down"):
        deviation(0.5, 0.5)


def test_a_transition_asked_for_again_is_of_another_path():
    source = path()
    first, second = draw(source, 500, 100), draw(source, 500, 100)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1].item()) < 5 / math.sqrt(ROWS)


SOLVERS = {
    "ddpm": DDPM(),
    "ddim eta 1": DDIM(eta=1.0),
    "dpmpp_2m_sde": DPMSolverPP(eta=1.0),
    "dpmpp_2s_a": DPMSolverPPSingle(eta=1.0),
    "euler churn": Euler(churn=0.1),
    "sa": SASolver(),
}


def gaussian(x, t):
    """The exact denoiser of data N(0.5, 0.6^2)."""
    alpha, sigma = scaled_linear()(t, x.ndim, torch.float64)
    x0 = 0.5 + alpha * 0.36 / (alpha**2 * 0.36 + sigma**2) * (x - alpha * 0.5)
    return Denoised(x0, (x - alpha * x0) / sigma)


@pytest.mark.parametrize("name", SOLVERS)
def test_step_counts_share_the_path(name):
    """Twice the steps end near the same states; with independent draws they do not."""
    apart = {}
    for kind in ("brownian", "independent"):
        ends = []
        for steps in (50, 100):
            noise = step_noise(kind, lambda n: normal(n, 1000), 1000)
            start = random.normal(1, "x", KEY[:1000], 0).double()
            solver, grid = SOLVERS[name], trailing(1000, steps)
            ends.append(sample(gaussian, scaled_linear(), solver, start, grid, noise))
        apart[kind] = (ends[0] - ends[1]).square().mean().sqrt().item()
    assert apart["brownian"] < 0.35 * apart["independent"]


def test_more_steps_come_nearer():
    """The strong order of 1/2 of ancestral sampling (Maruyama)."""
    ends = []
    for steps in (50, 100, 200):
        noise = step_noise("brownian", lambda n: normal(n, 1000), 1000)
        start = random.normal(1, "x", KEY[:1000], 0).double()
        ends.append(sample(gaussian, scaled_linear(), DDPM(), start, trailing(1000, steps), noise))
    first, second = ((a - b).square().mean().sqrt().item() for a, b in pairwise(ends))
    assert second / first == pytest.approx(0.5**0.5, abs=0.06)


def test_restart_draws_its_rounds_from_different_paths():
    seen = []

    def watch(n, t, s):
        seen.append(source(n, t, s))
        return seen[-1]

    source = path()
    sample(
        gaussian,
        scaled_linear(),
        Restart(repeats=3),
        normal(0),
        log_snr(1000, 10, schedule=scaled_linear()),
        watch,
    )
    assert len(seen) == 3
    assert (torch.corrcoef(torch.stack(seen)) - torch.eye(3)).abs().max() < 5 / math.sqrt(ROWS)


def test_another_kind_of_noise_is_refused():
    with pytest.raises(ValueError, match=r"must be one of .*, got 'pink'"):
        step_noise("pink", normal, 1000)
