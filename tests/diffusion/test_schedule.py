"""Noise levels: exact at the ends, monotone and continuous between, invertible, equal to published tables."""

import copy
import math
import pickle
import re
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ldm.diffusion.continuous import FlowMatching, VarianceExploding
from ldm.diffusion.schedule import Tabulated, cosine, linear, scaled_linear, sigmoid, zero_snr
from ldm.utils.options import options

CONF = Path(__file__).parents[2] / "conf" / "schedule"
SCHEDULES = {p.stem: instantiate(OmegaConf.load(p), _convert_="all") for p in sorted(CONF.glob("*.yaml"))}
SCHEDULES["three"] = Tabulated(alphas_cumprod=(0.9, 0.5, 0.1))
SCHEDULES["three_zero_snr"] = Tabulated(alphas_cumprod=(0.9, 0.5, 0.0))
TABULATED = [schedule for schedule in SCHEDULES.values() if isinstance(schedule, Tabulated)]


@pytest.fixture(params=SCHEDULES, name="schedule")
def _schedule(request):
    return SCHEDULES[request.param]


def test_clean_data_at_minus_one_is_exact(schedule):
    alpha, sigma = schedule(torch.tensor([-1.0]), 1)
    assert alpha.item() == 1.0
    assert sigma.item() == 0.0
    assert schedule.log_snr(torch.tensor([-1.0])).item() == math.inf


@pytest.mark.parametrize("schedule", TABULATED)
def test_whole_times_give_the_table(schedule):
    table = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)
    t = torch.arange(schedule.num_train_timesteps).double()
    alpha, sigma = schedule(t, 1)
    torch.testing.assert_close(schedule.log_snr(t).sigmoid(), table, rtol=1e-13, atol=0)
    torch.testing.assert_close(alpha, table.sqrt().float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(sigma, (1 - table).sqrt().float(), rtol=1e-7, atol=0)


def test_zero_terminal_snr_ends_in_pure_noise_exactly(schedule):
    alpha, sigma = schedule(torch.tensor([schedule.num_train_timesteps - 1.0]), 1)
    assert (alpha.item() == 0.0) == schedule.zero_terminal_snr
    assert (sigma.item() == 1.0) or not schedule.zero_terminal_snr


def test_levels_are_strictly_monotone_and_continuous_between_whole_times(schedule):
    last = schedule.num_train_timesteps - 1
    t = torch.linspace(-1, last, 16 * (last + 1) + 1, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    assert (log_snr[1:] < log_snr[:-1]).all()
    knots = torch.arange(0, last).double()
    alpha, sigma = (
        torch.stack(x) for x in zip(*(schedule(knots + d, 1) for d in (-1e-9, 1e-9)), strict=True)
    )
    torch.testing.assert_close(alpha[0], alpha[1], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(sigma[0], sigma[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", TABULATED)
def test_first_interval_has_linear_sigma_over_alpha(schedule):
    alpha, sigma = schedule(torch.tensor([-0.75, -0.5, 0.0]).double(), 1)
    ratio = sigma / alpha
    torch.testing.assert_close(ratio, ratio[2] * torch.tensor([0.25, 0.5, 1.0]))


def test_the_spread_is_that_of_noisy_data_of_unit_variance(schedule):
    t = torch.linspace(-1, schedule.num_train_timesteps - 1, 999)
    alpha, sigma = schedule(t, 1)
    torch.testing.assert_close(
        alpha.square() + sigma.square(), schedule.spread(t, 1).square(), rtol=5e-7, atol=0
    )
    assert not isinstance(schedule, Tabulated) or torch.equal(schedule.spread(t, 1), torch.ones(999))


def test_flow_levels_are_straight_and_shifted():
    t = torch.tensor([-1.0, 249.0, 499.0, 999.0]).double()
    alpha, sigma = FlowMatching()(t, 1, torch.float64)
    torch.testing.assert_close(sigma, (t + 1) / 1000)
    torch.testing.assert_close(alpha, 1 - sigma)
    u = (t + 1) / 1000
    torch.testing.assert_close(FlowMatching(shift=3.0)(t, 1, torch.float64)[1], 3 * u / (1 + 2 * u))


def test_exploding_levels_are_those_of_karras():
    """Karras et al. 2022, Eq. 5, in diffusers EDMEulerScheduler."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    theirs.set_timesteps(1000)
    alpha, sigma = VarianceExploding()(torch.arange(999, -1, -1).double(), 1, torch.float64)
    assert torch.equal(alpha, torch.ones(1000).double())
    torch.testing.assert_close(sigma, theirs.sigmas[:-1].double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: FlowMatching(shift=0.0), "shift"),
        (lambda: FlowMatching(num_train_timesteps=2), "num_train_timesteps"),
        (lambda: VarianceExploding(sigma_min=0.0), "sigma_min"),
        (lambda: VarianceExploding(sigma_max=0.001), "sigma_max"),
        (lambda: VarianceExploding(rho=0.0), "rho"),
    ],
)
def test_impossible_closed_forms_are_refused(make, key):
    with pytest.raises(ValueError, match=re.escape(key)):
        make()


def test_time_and_log_snr_are_inverse(schedule):
    last = schedule.num_train_timesteps - 1
    t = torch.linspace(-1, last, 4999, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-12, atol=1e-10)
    log_snr = torch.linspace(
        20.0, float(schedule.log_snr(torch.tensor([last - 0.5]))), 999, dtype=torch.float64
    )
    torch.testing.assert_close(schedule.log_snr(schedule.time(log_snr)), log_snr, rtol=1e-10, atol=1e-9)


def test_infinite_log_snr_has_a_time(schedule):
    t = schedule.time(torch.tensor([math.inf, -math.inf]))
    assert t.tolist() == [-1.0, schedule.num_train_timesteps - 1.0]


def test_times_outside_the_schedule_are_nan(schedule):
    t = torch.tensor([-1.01, schedule.num_train_timesteps - 0.99])
    assert all(x.isnan().all() for x in schedule(t, 1))


def test_levels_are_float32_with_trailing_axes(schedule):
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        alpha, sigma = schedule(torch.zeros(2, dtype=dtype), 4)
        assert alpha.shape == sigma.shape == (2, 1, 1, 1)
        assert alpha.dtype == sigma.dtype == torch.float32


def test_schedules_are_values(schedule):
    schedule(torch.zeros(1), 1)
    same = (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule)))
    assert all(other == schedule and hash(other) == hash(schedule) for other in same)
    with pytest.raises(AttributeError):
        schedule.num_train_timesteps = 7


def test_first_use_in_inference_mode_leaves_gradients_working():
    schedule = linear(num_train_timesteps=11)
    with torch.inference_mode():
        schedule(torch.zeros(1), 1)
    x = torch.ones(1, requires_grad=True)
    alpha, _ = schedule(torch.zeros(1), 1)
    (alpha * x).sum().backward()
    assert torch.equal(x.grad, alpha)


def test_schedules_are_made_under_a_default_device():
    with torch.device("meta"):
        assert cosine() == SCHEDULES["cosine"]
        assert zero_snr(base=scaled_linear()) == SCHEDULES["zero_snr"]


def test_zero_snr_keeps_the_first_level_and_moves_the_others_affinely():
    base = scaled_linear()
    alpha = torch.tensor(base.alphas_cumprod, dtype=torch.float64).sqrt()
    moved = torch.tensor(zero_snr(base=base).alphas_cumprod, dtype=torch.float64).sqrt()
    assert zero_snr(base=base).zero_terminal_snr
    torch.testing.assert_close(moved[0], alpha[0])
    ratio = moved[:-1].diff() / alpha[:-1].diff()
    torch.testing.assert_close(ratio, ratio[:1].expand(len(ratio)))


def test_zero_snr_of_zero_snr_changes_nothing():
    once = zero_snr(base=scaled_linear())
    twice = torch.tensor(zero_snr(base=once).alphas_cumprod, dtype=torch.float64)
    torch.testing.assert_close(twice, torch.tensor(once.alphas_cumprod, dtype=torch.float64))


@pytest.mark.parametrize(
    "table", [(1.0, 0.5, 0.2), (0.5, 0.5, 0.2), (0.5, 0.4, -0.1), (0.9, float("nan"), 0.1)]
)
def test_tables_that_are_not_decreasing_levels_are_refused(table):
    with pytest.raises(ValueError, match="strictly"):
        Tabulated(alphas_cumprod=table)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: linear(beta_start=0.0), "beta_start"),
        (lambda: scaled_linear(beta_end=1.0), "beta_end"),
        (lambda: sigmoid(width=0.0), "width"),
        (lambda: sigmoid(beta_start=0.0), "beta_start"),
        (lambda: cosine(max_beta=1.0), "max_beta"),
        (lambda: cosine(num_train_timesteps=2), "num_train_timesteps"),
    ],
)
def test_errors_name_the_argument(make, key):
    with pytest.raises(ValueError, match=key):
        make()


@pytest.mark.parity
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (linear(), {"beta_schedule": "linear"}),
        (scaled_linear(), {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        (cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
        (sigmoid(), {"beta_schedule": "sigmoid"}),
        (zero_snr(base=linear()), {"beta_schedule": "linear", "rescale_betas_zero_snr": True}),
    ],
    ids=["linear", "scaled_linear", "cosine", "sigmoid", "zero_snr"],
)
def test_tables_equal_those_of_diffusers(ours, theirs):
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDPMScheduler(num_train_timesteps=1000, **theirs).alphas_cumprod.double()
    table = torch.tensor(ours.alphas_cumprod, dtype=torch.float64)
    torch.testing.assert_close(table, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", options("schedule"))
def test_the_rate_is_the_slope_of_the_log_snr(name):
    """Against differences, away from the table's entries, where the slope jumps."""
    schedule = options("schedule")[name]
    t = torch.tensor([0.0, 0.3, 1.5, 250.25, 700.75, 997.5], dtype=torch.float64)
    slope = (schedule.log_snr(t) - schedule.log_snr(t + 1e-6)) / 1e-6
    torch.testing.assert_close(schedule.rate(t), slope, rtol=1e-3, atol=1e-9)
    assert schedule.rate(t.float()).dtype == torch.float64
    assert (schedule.rate(torch.arange(1000.0)) > 0).all()
