"""Grids by noise level: every number of steps, their formulas, and the published lists."""

import inspect
from itertools import product

import pytest
import torch

from ldm.diffusion.level_grids import PUBLISHED, align_your_steps, explicit, karras, log_snr
from ldm.diffusion.schedule import scaled_linear
from ldm.diffusion.timesteps import leading, times_of
from ldm.utils.options import options

GRIDS, SCHEDULES = options("timesteps"), options("schedule")
GRIDS.pop("explicit")
FINAL = {"log_snr": 0.0, "sd15": 0.0, "sd2": 0.0}
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize(("grid", "schedule"), list(product(GRIDS, SCHEDULES)))
def test_every_number_of_steps_is_run_from_the_top_to_the_end(grid, schedule):
    few = (1, 2, 5, 20, 50, 333, 999, 1000)
    same = "schedule" not in inspect.signature(GRIDS[grid].func).parameters  # on all schedules
    again = same and schedule != next(iter(SCHEDULES))
    for n in few if again else (*range(1, 41), 50, 99, 100, 250, 333, 500, 501, 777, 999, 1000):
        times = times_of(GRIDS[grid], SCHEDULES[schedule], n)
        assert len(times) == n + 1
        assert times[-1] == FINAL.get(grid, -1.0)
        leads = GRIDS[grid].func is leading
        assert leads or times[0] == 999 or grid == "align_your_steps"


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("n", [2, 10, 20, 50])
@pytest.mark.parametrize("grid", ["karras", "exponential"])
def test_levels_are_those_of_diffusers(grid, n):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.EulerDiscreteScheduler(
        **BETAS, timestep_spacing="trailing", **{f"use_{grid}_sigmas": True}
    )
    theirs.set_timesteps(1000)  # all levels of the table, then n of them
    low, high = theirs.sigmas[-2].item(), theirs.sigmas[0].item()
    convert = getattr(theirs, f"_convert_to_{grid}")
    expected = torch.as_tensor(convert(in_sigmas=torch.tensor([high, low]), num_inference_steps=n)).double()
    times = times_of(GRIDS[grid], scaled_linear(), n)[:-1]
    torch.testing.assert_close(torch.exp(-scaled_linear().log_snr(times) / 2), expected, rtol=1e-4, atol=0)


@pytest.mark.parity
@pytest.mark.parametrize("n", [1, 2, 5, 20, 25, 50, 100, 333, 999])
@pytest.mark.parametrize("preset", ["sd15", "sd2"])
def test_presets_are_the_grids_of_the_published_pipelines(preset, n):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        **BETAS, timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False
    )
    theirs.set_timesteps(n)
    assert times_of(GRIDS[preset], scaled_linear(), n)[:-1].tolist() == theirs.timesteps.tolist()


def test_log_snr_is_uniform():
    times = log_snr(1000, 40, schedule=scaled_linear())
    steps = scaled_linear().log_snr(times).diff()
    torch.testing.assert_close(steps, steps[:1].expand(40))


def test_aligned_steps_are_the_published_ones():
    times = align_your_steps(1000, 10, schedule=scaled_linear())
    sigma = torch.exp(-scaled_linear().log_snr(times[:-1]) / 2)
    torch.testing.assert_close(sigma, torch.tensor(PUBLISHED[:-1]).double(), rtol=1e-4, atol=0)
    published = torch.tensor([999, 850, 736, 645, 545, 455, 343, 233, 124, 24]).double()
    assert (times[:-1] - published).abs().max() < 1.5


def test_lists_of_times_and_of_levels():
    schedule = scaled_linear()
    assert explicit(1000, 2, schedule=schedule, times=[900.0, 10.5]).tolist() == [900.0, 10.5, -1.0]
    times = explicit(1000, 2, schedule=schedule, sigmas=[5.0, 0.5])
    torch.testing.assert_close(schedule.log_snr(times[:2]), -2 * torch.tensor([5.0, 0.5]).double().log())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: explicit(1000, 2, schedule=s), "times"),
        (lambda s: explicit(1000, 3, schedule=s, times=[5.0, 4.0]), "num_inference_steps=2"),
        (lambda s: explicit(1000, 2, schedule=s, times=[4.0, 5.0]), "decrease strictly"),
        (lambda s: explicit(1000, 2, schedule=s, sigmas=[5.0, 0.0]), "sigmas must be positive, got 0.0"),
        (lambda s: karras(1000, 5, schedule=s, rho=0.0), "rho"),
        (lambda s: log_snr(1000, 5, schedule=s, final=-1.0), "final"),
        (lambda s: times_of(lambda t, n: torch.tensor([5.0, 4.0]), s, 2), "3 times, got 2"),
    ],
)
def test_mistakes_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make(scaled_linear())
