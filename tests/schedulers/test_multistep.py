"""Weights of multistep rules against closed forms."""

import pytest
import torch

from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import times_of
from ldm.evaluation.oracle import gaussian, sampled_moments
from ldm.schedulers.multistep import Estimate, lagrange_integrals, remember, steady
from ldm.utils.options import options

MULTISTEP = ["dpmpp_2m", "dpmpp_3m", "dpmpp_3m_sde", "dpmpp_2m_sde", "deis", "lms", "unipc", "sa"]


def test_equal_steps_give_the_weights_of_adams_and_bashforth():
    nodes = [torch.tensor([-float(i)], dtype=torch.float64) for i in range(4)]
    start, end = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    found = torch.cat(lagrange_integrals(nodes, start, end, torch.ones_like))
    torch.testing.assert_close(24 * found, torch.tensor([55.0, -59.0, 37.0, -9.0]).double())


def test_weighted_integrals_are_those_of_the_closed_form():
    h = torch.tensor([0.7], dtype=torch.float64)
    nodes = [torch.zeros(1, dtype=torch.float64), torch.full((1,), -0.5, dtype=torch.float64)]
    found = lagrange_integrals(nodes, torch.zeros_like(h), h, torch.exp)
    second = -2 * (1 + (h - 1) * h.exp())  # the integral of e^u u / -0.5
    torch.testing.assert_close(torch.cat(found), torch.cat([torch.expm1(h) - second, second]))


def test_the_newest_estimate_comes_first_and_pure_noise_is_forgotten():
    at = [torch.tensor([float(i)]) for i in range(3)]
    history = None
    for here in at:
        history = remember(history, here, 2 * here, 2)
    assert [e.at.item() for e in history] == [2.0, 1.0]
    assert remember(history, torch.tensor([-torch.inf]), at[0], 2) == ()


@pytest.mark.parametrize("grid", ["leading", "sd15", "trailing", "karras", "beta", "log_snr"])
@pytest.mark.parametrize(
    "solver", ["dpmpp_2m", "dpmpp_3m", "dpmpp_3m_sde", "dpmpp_2m_sde", "deis", "lms", "unipc", "sa"]
)
def test_no_grid_makes_a_multistep_rule_overshoot(solver, grid):
    """The last finite step of `leading` is five times the one before it."""
    times = times_of(options("timesteps")[grid], scaled_linear(), 20)
    found = sampled_moments(options("scheduler")[solver], scaled_linear(), gaussian(0.5, 0.6), times)
    assert found.error < 0.25


def estimates(*at):
    return tuple(Estimate(torch.tensor([a]), torch.tensor([a])) for a in at)


def test_a_step_that_grows_twofold_takes_the_newest_estimate_only():
    history = estimates(0.2, 0.1)
    assert steady(history, torch.tensor([0.19])) == history
    assert steady(history, torch.tensor([0.21])) == history[:1]
    assert steady((), torch.tensor([1.0])) == ()


def test_a_third_estimate_needs_a_step_that_grows_less_and_is_not_far():
    history = estimates(0.3, 0.2, 0.1, 0.0)
    assert steady(history, torch.tensor([0.11])) == history
    assert steady(history, torch.tensor([0.13])) == history[:2]
    far = estimates(3.0, 2.3, 1.6, 0.9)
    assert steady(far, torch.tensor([0.5])) == far[:3]
    assert steady(far, torch.tensor([0.7])) == far[:2]
