"""Loss weights equal their formula where that is defined and are finite everywhere."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ldm.diffusion.continuous import FlowMatching, VarianceExploding
from ldm.diffusion.prediction import Epsilon, FlowVelocity, Sample, Velocity
from ldm.diffusion.schedule import linear, scaled_linear, zero_snr
from ldm.diffusion.weighting import EDM, P2, Debiased, MinSNR, Sigmoid, SoftMinSNR, Uniform, Weighting

CONF = Path(__file__).parents[2] / "conf" / "weighting"
WEIGHTINGS = {p.stem: instantiate(OmegaConf.load(p), _convert_="all") for p in sorted(CONF.glob("*.yaml"))}
BOUNDED = sorted(WEIGHTINGS.keys() - {"p2", "debiased", "edm"})  # these are so at training times, from 0 up
PREDICTIONS = [Epsilon(), Velocity(), Sample()]


@pytest.mark.parametrize(("name", "prediction"), list(product(BOUNDED, PREDICTIONS)))
def test_weights_are_finite_and_not_negative_from_clean_data_to_pure_noise(name, prediction):
    schedule = zero_snr(base=scaled_linear())
    levels = schedule(torch.linspace(-1, 999, 4001).double(), 4)
    weight = WEIGHTINGS[name](*levels, prediction)
    assert isinstance(WEIGHTINGS[name], Weighting)
    assert weight.shape == (4001, 1, 1, 1)
    assert weight.isfinite().all()
    assert (weight >= 0).all()


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_its_published_formula(gamma):
    alpha, sigma = (x.double() for x in scaled_linear()(torch.arange(1000).double(), 1))
    snr = (alpha / sigma).square()
    published = {
        Epsilon(): snr.clamp(max=gamma) / snr,
        Velocity(): snr.clamp(max=gamma) / (snr + 1),
        Sample(): snr.clamp(max=gamma),
    }
    for prediction, weight in published.items():
        torch.testing.assert_close(MinSNR(gamma=gamma)(alpha, sigma, prediction), weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bias", [-1.0, 0.0, 2.0])
def test_soft_min_snr_and_sigmoid_are_their_published_formulas(bias):
    alpha, sigma = (x.double() for x in scaled_linear()(torch.arange(1000).double(), 1))
    snr = (alpha / sigma).square()
    gamma = math.exp(bias)
    on_x0, on_eps = snr * gamma / (snr + gamma), torch.sigmoid(bias - snr.log())
    for prediction in PREDICTIONS:
        x0, eps = prediction.error_ratio(alpha, sigma)
        soft, sigmoid = (w(alpha, sigma, prediction) for w in (SoftMinSNR(gamma=gamma), Sigmoid(bias=bias)))
        torch.testing.assert_close(soft, on_x0 * x0, rtol=1e-6, atol=0)
        torch.testing.assert_close(sigmoid, on_eps * eps, rtol=1e-6, atol=0)


def test_min_snr_limits():
    zero, one = torch.zeros(1), torch.ones(1)
    noise = [MinSNR()(zero, one, p).item() for p in PREDICTIONS]
    clean = [MinSNR()(one, zero, p).item() for p in PREDICTIONS]
    assert noise == [1.0, 0.0, 0.0]
    assert clean == [0.0, 0.0, 5.0]


def test_uniform_is_one():
    assert torch.equal(Uniform()(torch.zeros(2, 1), torch.ones(2, 1), Velocity()), torch.ones(2, 1))


@pytest.mark.parametrize("kind", [MinSNR, SoftMinSNR])
def test_gamma_must_be_positive(kind):
    with pytest.raises(ValueError, match=r"gamma"):
        kind(gamma=0.0)


@pytest.mark.parametrize("bias", [float("nan"), float("inf"), -60.0])
def test_bias_is_a_log_snr(bias):
    with pytest.raises(ValueError, match=r"bias"):
        Sigmoid(bias=bias)


@pytest.mark.parametrize("prediction", [Epsilon(), Velocity(), Sample(), FlowVelocity()])
def test_further_weights_are_the_published_functions_of_the_snr(prediction):
    """Each weight, on the error of eps, times the error of eps per error of the prediction."""
    t = torch.arange(0.0, 1000, 37)
    for schedule in (linear(), VarianceExploding()):
        alpha, sigma = schedule(t, 1, torch.float64)
        snr = (alpha / sigma) ** 2
        _, eps = prediction.error_ratio(alpha, sigma)
        published = {
            P2(k=2.0, gamma=0.5): (2 + snr) ** -0.5,
            P2(): 1 / (1 + snr),
            Debiased(): snr**-0.5,
            EDM(sigma_data=0.5): (1 / snr + 0.25) / (0.25 / snr) / snr,
        }
        for weighting, value in published.items():
            torch.testing.assert_close(weighting(alpha, sigma, prediction), value * eps)


@pytest.mark.parametrize("weighting", [P2(), P2(k=0.1, gamma=0.5), Debiased(), EDM()])
@pytest.mark.parametrize("prediction", [Epsilon(), Velocity(), Sample(), FlowVelocity()])
def test_further_weights_are_finite_at_every_training_time(weighting, prediction):
    for schedule in (linear(), zero_snr(base=linear()), FlowMatching(), VarianceExploding()):
        if not (prediction.needs_signal and schedule.zero_terminal_snr):
            weights = weighting(*schedule(torch.arange(1000.0), 1), prediction)
            assert weights.isfinite().all()
            assert (weights >= 0).all()


def test_edm_weights_velocities_alike():
    alpha, sigma = linear()(torch.arange(1000.0), 1)
    torch.testing.assert_close(EDM()(alpha, sigma, Velocity()), torch.ones(1000))


@pytest.mark.parametrize("make", [lambda: P2(k=0.0), lambda: P2(gamma=0.0), lambda: EDM(sigma_data=-1.0)])
def test_impossible_further_weights_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_soft_min_snr_is_that_of_its_authors(sigma_data):
    """k-diffusion's, on the error of the preconditioned net, with gamma = 1 / sigma_data^2: 4 for pixels."""
    sigma = torch.logspace(-2, 2, 50, dtype=torch.float64)
    alpha = torch.ones_like(sigma)
    c_out = sigma * sigma_data / torch.hypot(sigma, torch.tensor(sigma_data, dtype=torch.float64))
    published = (sigma * sigma_data) ** 2 / (sigma**2 + sigma_data**2) ** 2  # of F, x0's error over c_out
    ours = SoftMinSNR(gamma=sigma_data**-2)(alpha, sigma, Sample()) * c_out**2
    torch.testing.assert_close(ours / ours[0], published / published[0])
    assert SoftMinSNR().gamma == 1.0
