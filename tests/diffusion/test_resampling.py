"""The way of RePaint through the levels, and its forward step."""

import pytest
import torch

from ldm.diffusion.resampling import Resampling, renoised, resampled
from ldm.diffusion.sampling import StopSampling, sample
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import trailing
from ldm.evaluation.oracle import Mixture
from ldm.schedulers import DDPM
from ldm.utils.options import options

SCHEDULES = options("schedule")


def published(num_steps, jump, count):
    """Levels of Lugmayr et al.'s published schedule of times, T - 1 at the top, counted down from 0."""
    left = {t: count - 1 for t in range(0, num_steps - jump, jump)}
    t, found = num_steps - 1, [0]
    while t >= 0:
        t -= 1
        found.append(num_steps - 1 - t)
        if left.get(t, 0) > 0:
            left[t] -= 1
            for _ in range(jump):
                t += 1
                found.append(num_steps - 1 - t)
    return found


@pytest.mark.parametrize(
    ("steps", "jump", "count"), [(250, 10, 10), (25, 1, 3), (25, 7, 2), (12, 4, 5), (9, 8, 2)]
)
def test_the_levels_are_those_of_the_published_schedule(steps, jump, count):
    levels = [0]
    for first, last in Resampling(count=count, jump=jump).runs(steps):
        levels += [*range(levels[-1] - 1, first - 1, -1), *range(first + 1, last + 1)]
    assert levels == published(steps, jump, count)


def test_the_steps_are_those_that_are_run():
    assert Resampling().steps(25) == 25
    assert Resampling(count=10).steps(25) == 24 * 10 + 1
    assert Resampling(count=5, jump=5).steps(25) == 25 + 4 * 4 * 5


@pytest.mark.parametrize("name", SCHEDULES)
def test_noised_data_have_the_variance_of_their_level(name):
    """Gain and spread, from the response to x and to the noise."""
    schedule = SCHEDULES[name]
    s, t, x = torch.tensor([300.0]), torch.tensor([999.0]), torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    gain, spread = renoised(schedule, x, s, t, x.flip(0))[:, 0]
    (alpha_s, sigma_s), (alpha_t, sigma_t) = (schedule(v, 1, torch.float64) for v in (s, t))
    torch.testing.assert_close(gain * alpha_s, alpha_t, rtol=0, atol=1e-12, check_dtype=False)
    torch.testing.assert_close((gain * sigma_s) ** 2 + spread**2, sigma_t**2)


def run(resampling, on_step=lambda i, x, x0: None):
    schedule, x = scaled_linear(), torch.linspace(-1, 1, 5, dtype=torch.float64)
    draws = []

    def noise(n, t, s):
        draws.append(n)
        return torch.full_like(x, 0.1 * n)

    arguments = (Mixture().denoiser(schedule), schedule, DDPM(), x, trailing(1000, 6), noise, on_step)
    return (sample(*arguments) if resampling is None else resampled(*arguments, resampling)), draws


def test_a_single_run_is_that_of_sample():
    assert torch.equal(run(Resampling())[0], run(None)[0])


def test_each_draw_has_a_number_of_its_own_and_each_step_its_index():
    indices = []
    _, draws = run(Resampling(count=2, jump=2), lambda i, x, x0: indices.append(i))
    assert draws == list(range(len(draws)))
    assert indices == [0, 1, 2, 1, 2, 3, 4, 3, 4, 5]


def test_a_stop_ends_all_runs():
    seen = []

    def stop(i, x, x0):
        seen.append((i, x0))
        if len(seen) == 3:
            raise StopSampling

    assert torch.equal(run(Resampling(count=3, jump=2), stop)[0], seen[2][1])
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resampling(count=0), r"count must be at least 1, got 0"),
        (lambda: Resampling(jump=0), r"jump must be at least 1, got 0"),
        (
            lambda: Resampling(count=2, jump=5).runs(5),
            r"jump must be less than the 5 steps that are run, got 5",
        ),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
