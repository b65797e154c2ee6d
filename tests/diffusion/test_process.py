"""The loss is its definition, computed by hand; the denoiser inverts the net's prediction."""

from itertools import product

import pytest
import torch

from ldm.diffusion.prediction import Epsilon, Sample, Velocity
from ldm.diffusion.process import Diffusion
from ldm.diffusion.schedule import linear, scaled_linear, zero_snr
from ldm.diffusion.weighting import MinSNR, Sigmoid, SoftMinSNR, Uniform
from ldm.utils.options import options

PREDICTIONS = [Epsilon(), Velocity(), Sample()]


def batch(b=5):
    generator = torch.Generator().manual_seed(0)
    x0, noise, out = torch.randn(3, b, 2, 3, 3, generator=generator)
    return x0, noise, out, torch.rand(b, generator=generator) * 999


@pytest.mark.parametrize(
    ("prediction", "weighting"), list(product(PREDICTIONS, [Uniform(), MinSNR(gamma=2.0)]))
)
def test_loss_is_the_weighted_mean_squared_error(prediction, weighting):
    x0, noise, out, t = batch()
    schedule = linear()
    diffusion = Diffusion(schedule=schedule, prediction=prediction, weighting=weighting)
    snr = schedule.log_snr(t).exp()
    alpha, sigma = (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
    a, s = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
    target = {"eps": noise, "v": a * noise - s * x0, "x0": x0}[prediction.name]
    capped = snr.clamp(max=2.0)
    min_snr = {"eps": capped / snr, "v": capped / (snr + 1), "x0": capped}[prediction.name]
    weight = min_snr if isinstance(weighting, MinSNR) else torch.ones_like(snr)
    seen = {}

    def net(x_t, t):
        seen.update(x_t=x_t, t=t)
        return out

    loss = diffusion.loss(net, x0, noise, t)
    torch.testing.assert_close(loss, (weight * (out - target).square().mean((1, 2, 3))).float())
    torch.testing.assert_close(seen["x_t"], (a * x0 + s * noise).float())
    torch.testing.assert_close(seen["x_t"], diffusion.add_noise(x0, noise, t))
    assert torch.equal(seen["t"], t)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_loss_of_the_perfect_net_is_zero_and_its_denoiser_returns_the_truth(prediction):
    x0, noise, _, t = batch()
    diffusion = Diffusion(schedule=scaled_linear(), prediction=prediction, weighting=Uniform())
    target = prediction.target(x0, noise, *diffusion.schedule(t, 4))
    assert torch.equal(diffusion.loss(lambda x_t, t: target, x0, noise, t), torch.zeros(5))
    found = diffusion.denoiser(lambda x_t, t: target)(diffusion.add_noise(x0, noise, t), t)
    torch.testing.assert_close(found.x0, x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.eps, noise, rtol=1e-4, atol=1e-4)


def test_loss_is_float32_for_a_net_in_bfloat16():
    x0, noise, out, t = batch()
    diffusion = Diffusion(schedule=linear(), prediction=Velocity(), weighting=Uniform())
    loss = diffusion.loss(lambda x_t, t: out.bfloat16(), x0, noise, t)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, diffusion.loss(lambda x_t, t: out.bfloat16().float(), x0, noise, t))


def test_the_loss_of_a_sample_does_not_depend_on_the_others():
    x0, noise, _, t = batch()
    diffusion = Diffusion(schedule=linear(), prediction=Velocity(), weighting=MinSNR())
    whole = diffusion.loss(lambda x_t, t: x_t.sin(), x0, noise, t)
    alone = [
        diffusion.loss(lambda x_t, t: x_t.sin(), *(v[i : i + 1] for v in (x0, noise, t))) for i in range(5)
    ]
    torch.testing.assert_close(whole, torch.cat(alone))


def test_the_denoiser_gives_the_net_float32_times_for_each_row_and_returns_float32():
    def net(x_t, t):
        assert t.shape == (5,)
        assert t.dtype == torch.float32
        return x_t.bfloat16()

    diffusion = Diffusion(schedule=linear(), prediction=Epsilon(), weighting=Uniform())
    found = diffusion.denoiser(net)(batch()[0], torch.tensor([3.5], dtype=torch.float64))
    assert found.x0.dtype == found.eps.dtype == torch.float32


def test_eps_with_zero_terminal_snr_is_refused_naming_both_keys():
    with pytest.raises(ValueError, match=r"prediction=eps .*"):
        Diffusion(schedule=zero_snr(base=linear()), prediction=Epsilon(), weighting=Uniform())


@pytest.mark.parametrize("prediction", [Velocity(), Sample()])
def test_zero_terminal_snr_trains_at_the_last_time(prediction):
    diffusion = Diffusion(schedule=zero_snr(base=linear()), prediction=prediction, weighting=MinSNR())
    x0, noise, out, _ = batch()
    x0.requires_grad_()
    loss = diffusion.loss(lambda x_t, t: out + x_t, x0, noise, torch.full((5,), 999.0))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert x0.grad.isfinite().all()


def test_an_output_of_another_shape_is_refused():
    x0, noise, out, t = batch()
    diffusion = Diffusion(schedule=linear(), prediction=Epsilon(), weighting=Uniform())
    with pytest.raises(ValueError, match=r"out_channels"):
        diffusion.loss(lambda x_t, t: out[:, :1], x0, noise, t)


def test_the_denoiser_takes_once_or_twice_the_channels_only():
    diffusion = Diffusion(schedule=linear(), prediction=Epsilon(), weighting=Uniform())
    x, t = torch.randn(2, 3, 4, 4), torch.tensor([10.0])
    twice = diffusion.denoiser(lambda x_t, t: torch.cat([x_t, x_t + 1], 1))(x, t)
    assert torch.equal(twice.eps, x)
    assert torch.equal(twice.variance, x + 1)
    for channels in (1, 4, 9):
        denoise = diffusion.denoiser(lambda x_t, t, c=channels: x_t.new_zeros(len(x_t), c, 4, 4))
        with pytest.raises(ValueError, match=r"got \(2, \d, 4, 4\)"):
            denoise(x, t)


SCHEDULES = options("schedule")


def mean_loss(schedule, weighting, prediction, n=200_000):
    """The loss at uniform times of a net whose error of eps is 1 at every level."""
    diffusion = Diffusion(schedule=schedule, prediction=prediction, weighting=weighting)
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n * (schedule.num_train_timesteps - 1)
    alpha, sigma = schedule(t, 1, torch.float64)
    _, eps = prediction.error_ratio(alpha, sigma)
    return (diffusion._weight(t, alpha, sigma) / eps).mean().item()


@pytest.mark.parametrize("bias", [-1.0, 2.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_sigmoid_loss_is_an_integral_over_the_log_snr(name, bias):
    """The same for all schedules but for its ends (Kingma & Gao 2023, Eq. 7)."""
    schedule = SCHEDULES[name]
    last = torch.tensor([0.0, 999.0 - (0.5 if schedule.zero_terminal_snr else 0.0)], dtype=torch.float64)
    high, low = schedule.log_snr(last)
    softplus = torch.nn.functional.softplus
    exact = (softplus(bias - low) - softplus(bias - high)).item()
    if not schedule.zero_terminal_snr:
        assert mean_loss(schedule, Sigmoid(bias=bias), Velocity()) == pytest.approx(exact, rel=1e-3)
    else:  # infinite without the error's own factor of alpha^2
        assert mean_loss(schedule, Sigmoid(bias=bias), Velocity()) > exact
    assert mean_loss(schedule, SoftMinSNR(gamma=2.0), Velocity()) < 1.0


@pytest.mark.parametrize("prediction", [Velocity(), Sample()])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_sigmoid_loss_is_finite_at_every_training_time(name, prediction):
    schedule = SCHEDULES[name]
    t = torch.cat([torch.arange(1000.0), 999 - torch.logspace(-4, 0, 50)])
    diffusion = Diffusion(schedule=schedule, prediction=prediction, weighting=Sigmoid())
    loss = diffusion.loss(lambda x_t, t: 0 * x_t, torch.ones(1050, 1, 1, 1), torch.ones(1050, 1, 1, 1), t)
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert (loss >= 0).all()
