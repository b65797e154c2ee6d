"""The exact solutions are exact: by quadrature, by sampling, and by a fine solver."""

import math

import pytest
import torch

from ldm.diffusion import random
from ldm.diffusion.sampling import sample
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import trailing
from ldm.evaluation.oracle import (
    Mixture,
    flow_error,
    gaussian,
    level_error,
    measured_order,
    sampled_moments,
)
from ldm.schedulers import DDIM, DDPM, DPMSolverPPSingle, Restart
from ldm.utils.options import options

SCHEDULES = options("schedule")
TIMES = torch.tensor([10.0, 400.0, 900.0], dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("data", [Mixture(), gaussian(0.5, 0.6), gaussian(0.7, 0.0)])
def test_the_denoiser_is_the_mean_of_the_posterior(data, name):
    """By quadrature over x0, and x_t = alpha x0 + sigma eps."""
    schedule = SCHEDULES[name]
    alpha, sigma = schedule(TIMES, 1, torch.float64)
    x = alpha * 0.3 + sigma * torch.tensor([0.5, -1.0, 1.5], dtype=torch.float64)
    found = data.denoiser(schedule)(x, TIMES)
    torch.testing.assert_close(alpha * found.x0 + sigma * found.eps, x)
    if data.std == 0:
        assert found.x0.tolist() == [0.7] * 3
        return
    u = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    density = sum(
        p * torch.exp(-(((u - m) / data.std) ** 2) / 2) for m, p in zip(data.means, data.shares, strict=True)
    )
    for i in range(3):
        log = -(((x[i] - alpha[i] * u) / sigma[i]) ** 2) / 2
        weight = density * torch.exp(log - log.max())
        assert found.x0[i].item() == pytest.approx(((weight * u).sum() / weight.sum()).item(), rel=1e-6)


LIKE_OTHERS = ("cosine", "linear", "sigmoid")  # tables as scaled_linear and zero_snr are


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LIKE_OTHERS)) for n in SCHEDULES]
)
def test_the_flow_is_that_of_a_fine_solver(name):
    schedule, solver = SCHEDULES[name], DPMSolverPPSingle(order=3)
    ends = schedule.log_snr(torch.tensor([900.0, 20.0], dtype=torch.float64))
    grid = schedule.time(torch.lerp(ends[0], ends[1], torch.linspace(0, 1, 401, dtype=torch.float64)))
    assert flow_error(solver, schedule, Mixture(), grid) < 1e-6
    with pytest.raises(ValueError, match="draws no noise"):
        flow_error(DDPM(), schedule, Mixture(), grid)


@pytest.mark.parametrize("solver", [DDPM(), DDIM(eta=0.5), Restart(low=0.3)])
def test_moments_of_the_map_are_those_of_samples(solver):
    data, schedule, grid, n = gaussian(0.5, 0.6), scaled_linear(), trailing(1000, 12), 100_000
    key = torch.arange(n)
    start = random.normal(0, "x", key, 0).double()
    alpha, sigma = (level.item() for level in schedule(grid[:1], 1, torch.float64))
    x = alpha * 0.5 + math.sqrt(alpha**2 * 0.36 + sigma**2) * start
    noise = lambda i, t, s: random.normal(0, "z", key, i).double()  # noqa: E731
    samples = sample(data.denoiser(schedule), schedule, solver, x, grid, noise)
    found = sampled_moments(solver, schedule, data, grid)
    assert found.mean == pytest.approx(samples.mean().item(), abs=4 * found.std / math.sqrt(n))
    assert found.std == pytest.approx(samples.std().item(), rel=4 / math.sqrt(2 * n))
    assert (found.exact_mean, found.exact_std) == (0.5, pytest.approx(0.6))


def test_the_errors_are_seen():
    """A rule that goes to the wrong level, one of half the noise, and too little room for draws."""

    class Wrong(DDIM):
        def step(self, denoise, schedule, x, t, s, state, noise):
            return super().step(denoise, schedule, x, t, s - 1, state, noise)

    t, s = torch.tensor([[500.0, 300.0], [480.0, 250.0]], dtype=torch.float64)
    schedule, data = scaled_linear(), gaussian(0.5, 0.6)
    assert level_error(DDIM(), schedule, t, s) < 1e-12
    assert level_error(Wrong(), schedule, t, s) > 1e-4
    assert sampled_moments(DDPM(), schedule, data, trailing(1000, 100)).error < 0.06
    with pytest.raises(ValueError, match="draws more than 3 times"):
        sampled_moments(DDPM(), schedule, data, trailing(1000, 100), draws=3)
    assert measured_order(lambda n: 5 * n**-2.0, 10) == pytest.approx(2)
