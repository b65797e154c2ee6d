"""Every prediction type and schedule of the configs: target, then split, returns x0 and eps."""

from itertools import product
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ldm.diffusion.prediction import Epsilon, Prediction, Sample, Velocity, noise_in

CONF = Path(__file__).parents[2] / "conf"


def group(name):
    return {
        p.stem: instantiate(OmegaConf.load(p), _convert_="all") for p in sorted((CONF / name).glob("*.yaml"))
    }


PREDICTIONS, SCHEDULES = group("prediction"), group("schedule")
DEFINED = [
    (p, s) for p, s in product(PREDICTIONS, SCHEDULES)
    if not (PREDICTIONS[p].needs_signal and SCHEDULES[s].zero_terminal_snr)
]  # fmt: skip


def data(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, count, 3, 2, 2, generator=generator)


def test_predictions_follow_the_protocol_under_their_config_name():
    for name, prediction in PREDICTIONS.items():
        assert isinstance(prediction, Prediction)
        assert prediction.name == name


@pytest.mark.parametrize(("prediction", "schedule"), DEFINED)
def test_split_of_the_target_returns_x0_and_eps_at_every_time(prediction, schedule):
    prediction, schedule = PREDICTIONS[prediction], SCHEDULES[schedule]
    t = torch.arange(schedule.num_train_timesteps).double()
    x0, eps = data(len(t)).double()
    alpha, sigma = (level.double() for level in schedule(t, 4))
    x_t = alpha * x0 + sigma * eps
    found = prediction.split(prediction.target(x0, eps, alpha, sigma), x_t, alpha, sigma)
    torch.testing.assert_close(found.x0, x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.eps, eps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("prediction", "schedule"), DEFINED)
def test_estimates_stand_for_the_noisy_data(prediction, schedule):
    prediction, schedule = PREDICTIONS[prediction], SCHEDULES[schedule]
    t = torch.arange(schedule.num_train_timesteps).double()
    x_t, out = data(len(t)).double()
    alpha, sigma = (level.double() for level in schedule(t, 4))
    x0, eps, _ = prediction.split(out, x_t, alpha, sigma)
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_t, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("prediction", "schedule"), DEFINED)
def test_error_ratios_are_those_of_the_split(prediction, schedule):
    prediction, schedule = PREDICTIONS[prediction], SCHEDULES[schedule]
    t = torch.arange(schedule.num_train_timesteps).double()
    alpha, sigma = (level.double() for level in schedule(t, 1))
    zero = torch.zeros_like(alpha)
    unit = prediction.split(zero + 1, zero, alpha, sigma)
    none = prediction.split(zero, zero, alpha, sigma)
    x0, eps = prediction.error_ratio(alpha, sigma)
    torch.testing.assert_close((unit.x0 - none.x0).square(), x0, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close((unit.eps - none.eps).square(), eps, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_clean_data_gives_finite_estimates(prediction):
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    x_t, out = data(1)[:, :, 0, 0]
    found = PREDICTIONS[prediction].split(out, x_t, one, zero)
    assert found.x0.isfinite().all()
    assert found.eps.isfinite().all()


def test_pure_noise_gives_finite_estimates_for_v_and_x0():
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    x_t, out = data(1)[:, :, 0, 0]
    assert torch.equal(Velocity().split(out, x_t, zero, one).x0, -out)
    assert torch.equal(Velocity().split(out, x_t, zero, one).eps, x_t)
    assert torch.equal(Sample().split(out, x_t, zero, one).eps, x_t)
    assert Epsilon().needs_signal


def test_noise_in_clean_data_is_zero_with_a_finite_gradient():
    x0 = torch.ones(1, 1, requires_grad=True)
    eps = noise_in(torch.zeros(1, 1), x0, torch.ones(1, 1), torch.zeros(1, 1))
    eps.sum().backward()
    assert eps.item() == 0.0
    assert x0.grad.item() == 0.0
