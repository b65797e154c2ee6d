"""The loop runs every step once, on the times of the list, and hands the caller what it promises."""

from functools import partial
from typing import NamedTuple

import pytest
import torch

from ldm.diffusion.prediction import Denoised, Epsilon, Velocity
from ldm.diffusion.process import Diffusion
from ldm.diffusion.sampling import StopSampling, sample
from ldm.diffusion.schedule import linear, scaled_linear, zero_snr
from ldm.diffusion.timesteps import leading, trailing
from ldm.diffusion.weighting import Uniform
from ldm.schedulers.ddim import DDIM
from ldm.schedulers.ddpm import DDPM

SCHEDULE = linear()


def no_noise(i, t, s):
    raise AssertionError("a deterministic solver draws no noise")


class Step(NamedTuple):
    t: float
    s: float
    state: int | None
    drawn: int


class Recorder:
    """A solver that writes down its calls and counts them in its state."""

    def __init__(self):
        self.steps = []

    def step(self, denoise, schedule, x, t, s, state, noise):
        assert t.shape == s.shape == (1,)
        denoise(x, t)
        self.steps.append(Step(t.item(), s.item(), state, int(noise(t, s)[0])))
        return x + 1, len(self.steps)


def stub(x, t):
    return Denoised(x * 10, x)


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_times_states_and_noise_come_in_order(n):
    recorder = Recorder()
    grid = trailing(1000, n)
    x = sample(stub, SCHEDULE, recorder, torch.zeros(1), grid, lambda i, t, s: torch.tensor([i]))
    assert x.item() == n
    assert [(step.t, step.s) for step in recorder.steps] == list(
        zip(*(grid[i:].tolist() for i in (0, 1)), strict=False)
    )
    assert [step.state for step in recorder.steps] == [None, *range(1, n)]
    assert [step.drawn for step in recorder.steps] == list(range(n))


def test_on_step_sees_the_data_and_the_estimate_and_may_replace_the_data():
    seen = []

    def on_step(i, x, x0):
        seen.append((i, x.item(), x0.item()))
        return x * 2 if i == 0 else None

    x = sample(
        stub, SCHEDULE, Recorder(), torch.ones(1), trailing(1000, 3), lambda i, t, s: torch.zeros(1), on_step
    )
    assert seen == [(0, 2.0, 10.0), (1, 5.0, 40.0), (2, 6.0, 50.0)]
    assert x.item() == 6.0


@pytest.mark.parametrize("times", [[3.0], [3.0, 3.0], [2.0, 3.0], [1000.0, -1.0], [5.0, -1.5]])
def test_lists_that_are_no_grid_are_refused(times):
    with pytest.raises(ValueError, match="timesteps must"):
        sample(stub, SCHEDULE, DDIM(), torch.zeros(1), torch.tensor(times), no_noise)


@pytest.mark.parametrize("final", [-1.0, 0.0, 300.5])
def test_the_last_time_of_the_list_is_where_sampling_ends(final):
    """With data at one point the deterministic path is known in closed form."""
    mu, x = 0.3, torch.randn(4, generator=torch.Generator().manual_seed(0)).double()

    def denoise(x_t, t):
        alpha, sigma = SCHEDULE(t, x_t.ndim)
        return Denoised(torch.full_like(x_t, mu), (x_t - alpha * mu) / sigma)

    grid = leading(1000, 2, offset=301, final=final)
    (alpha_0, sigma_0), (alpha, sigma) = SCHEDULE(grid[:1], 1), SCHEDULE(grid[-1:], 1)
    end = sample(denoise, SCHEDULE, DDIM(), x, grid, no_noise)
    torch.testing.assert_close(end, alpha * mu + sigma * (x - alpha_0 * mu) / sigma_0, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scheduler", [DDPM(), DDPM(variance="large"), DDIM(), DDIM(eta=1.0)])
@pytest.mark.parametrize("prediction", [Epsilon(), Velocity()])
def test_a_sample_does_not_depend_on_its_batch_or_position(scheduler, prediction):
    diffusion = Diffusion(schedule=scaled_linear(), prediction=prediction, weighting=Uniform())
    denoise = diffusion.denoiser(lambda x_t, t: (x_t * (1 + t.view(-1, 1) / 1000)).sin())
    draws = torch.randn(11, 6, 3, generator=torch.Generator().manual_seed(0))

    def run(rows):
        noise = partial(lambda rows, i, t, s: draws[i + 1, rows], rows)
        return sample(denoise, diffusion.schedule, scheduler, draws[0, rows], trailing(1000, 10), noise)

    whole = run(torch.arange(6))
    for rows in ([5], [3, 1], [5, 4, 3, 2, 1, 0]):
        torch.testing.assert_close(run(torch.tensor(rows)), whole[rows], rtol=0, atol=0)


def test_zero_terminal_snr_is_sampled_from_pure_noise_to_finite_data():
    diffusion = Diffusion(schedule=zero_snr(base=linear()), prediction=Velocity(), weighting=Uniform())
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    for scheduler in (DDPM(), DDPM(variance="large"), DDIM(), DDIM(eta=1.0)):
        denoise = diffusion.denoiser(lambda x_t, t: x_t.sin())
        for n in (1, 2, 25):
            end = sample(
                denoise, diffusion.schedule, scheduler, x, trailing(1000, n), lambda i, t, s: torch.ones(2, 3)
            )
            assert end.isfinite().all()


def test_one_step_from_pure_noise_is_the_estimate_of_x0():
    diffusion = Diffusion(schedule=zero_snr(base=linear()), prediction=Velocity(), weighting=Uniform())
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    end = sample(
        diffusion.denoiser(lambda x_t, t: x_t.sin()),
        diffusion.schedule,
        DDIM(),
        x,
        trailing(1000, 1),
        no_noise,
    )
    assert torch.equal(end, -x.sin())


def test_stopping_gives_the_estimate_of_that_step():
    def stop_at(wanted):
        def on_step(i, x, x0):
            if i == wanted:
                raise StopSampling

        return on_step

    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    estimates = []
    grid = trailing(1000, 5)
    sample(stub, linear(), DDIM(), x, grid, no_noise, lambda i, x, x0: estimates.append(x0))
    for wanted in (0, 3):
        stopped = sample(stub, linear(), DDIM(), x, grid, no_noise, stop_at(wanted))
        assert torch.equal(stopped, estimates[wanted])
