"""Flow matching and variance exploding are their closed forms, inverse to themselves, NaN outside."""

import math
from itertools import product

import pytest
import torch

from ldm.diffusion.continuous import FlowMatching, VarianceExploding
from ldm.diffusion.level_grids import karras
from ldm.diffusion.sampling import sample
from ldm.diffusion.timesteps import leading, times_of, trailing
from ldm.evaluation.oracle import Mixture
from ldm.utils.options import options

TIMES = torch.cat([torch.linspace(-1, 0, 11), torch.linspace(0, 999, 200)[1:]]).double()


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_flow_matching_is_a_straight_path(shift):
    """alpha = 1 - tau, sigma = tau, and the shift multiplies sigma / alpha (Esser et al. 2024, Eq. 23)."""
    schedule = FlowMatching(shift=shift)
    alpha, sigma = schedule(TIMES, 1, torch.float64)
    u = (TIMES + 1) / 1000
    tau = shift * u / (1 + (shift - 1) * u)
    torch.testing.assert_close(alpha, 1 - tau, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sigma, tau, rtol=1e-9, atol=1e-12)
    assert schedule.zero_terminal_snr
    torch.testing.assert_close(schedule.spread(TIMES, 1, torch.float64), torch.hypot(1 - tau, tau))


@pytest.mark.parametrize("rho", [7.0, 1.0, 3.0])
def test_variance_exploding_has_the_levels_of_karras(rho):
    """Karras et al. 2022, Eq. 5, from the other end."""
    schedule = VarianceExploding(sigma_min=0.01, sigma_max=50.0, rho=rho)
    alpha, sigma = schedule(TIMES, 1, torch.float64)
    assert torch.equal(alpha, torch.ones_like(alpha))
    ends = 0.01 ** (1 / rho), 50.0 ** (1 / rho)
    above = (ends[0] + TIMES / 999 * (ends[1] - ends[0])).clamp(min=0) ** rho
    torch.testing.assert_close(
        sigma, torch.where(TIMES >= 0, above, 0.01 * (TIMES + 1)), rtol=1e-9, atol=1e-12
    )
    assert not schedule.zero_terminal_snr
    assert schedule.scales_input


@pytest.mark.parametrize("schedule", [FlowMatching(), FlowMatching(shift=3.0), VarianceExploding()])
def test_time_is_the_inverse_of_log_snr(schedule):
    inner = TIMES[(TIMES > -1) & (TIMES < 999)]
    log_snr = schedule.log_snr(inner)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(schedule.time(log_snr), inner, rtol=0, atol=1e-6)
    outside = schedule.log_snr(torch.tensor([-1.01, 999.01]))
    assert outside.isnan().all()
    assert schedule.log_snr(torch.tensor([-1.0])).item() == math.inf
    assert schedule.time(torch.tensor([-1e9]).double()).item() == pytest.approx(999.0)


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        (FlowMatching, {"shift": 0.0}, "shift"),
        (FlowMatching, {"shift": math.inf}, "shift"),
        (FlowMatching, {"num_train_timesteps": 2}, "num_train_timesteps"),
        (VarianceExploding, {"num_train_timesteps": 2}, "num_train_timesteps"),
        (VarianceExploding, {"sigma_min": 0.0}, "sigma_min"),
        (VarianceExploding, {"sigma_min": 90.0}, "sigma_max"),
        (VarianceExploding, {"rho": 0.0}, "rho"),
    ],
)
def test_impossible_settings_are_refused(kind, given, says):
    with pytest.raises(ValueError, match=says):
        kind(**given)


@pytest.mark.parametrize("name", options("scheduler"))
def test_no_solver_evaluates_a_net_below_the_least_noise_of_training(name):
    """Why times below 0, where sigma goes to 0, are not trained."""
    schedule, solver, seen = FlowMatching(), options("scheduler")[name], []
    exact = Mixture().denoiser(schedule)

    def denoise(x, t):
        seen.append(float(t.min()))
        return exact(x, t)

    def draw(i, t, s):
        return torch.zeros(2, dtype=torch.float64)

    for grid, steps in product((trailing, leading, karras), (1, 5)):
        sample(denoise, schedule, solver, torch.ones(2).double(), times_of(grid, schedule, steps), draw)
    assert min(seen) > -1e-9
