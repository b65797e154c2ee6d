"""Inpainting with a plain net against the exact answer for two Gaussian pixels."""

from itertools import count

import pytest
import torch

from ldm.diffusion.resampling import Resampling
from ldm.diffusion.schedule import cosine, scaled_linear
from ldm.diffusion.timesteps import trailing
from ldm.evaluation.inpainting_oracle import inpainted, pair_denoiser
from ldm.schedulers import DDIM, DDPM, DPMSolverPP

SOLVERS = [DDIM(), DDPM(), DPMSolverPP()]
GRID = trailing(1000, 10)


def test_the_denoiser_is_the_conditional_mean():
    """For equal pixels it is that of their mean with half the noise."""
    schedule, t = cosine(), torch.tensor([500.0])
    alpha, sigma = schedule(t, 1, torch.float64)
    x = torch.tensor([[0.3, 1.1]], dtype=torch.float64)
    found = pair_denoiser(schedule, 1.0, count())(x, t)
    torch.testing.assert_close(found.x0, (alpha * 0.7 / (alpha**2 + sigma**2 / 2)).expand(1, 2))
    torch.testing.assert_close(alpha * found.x0 + sigma * found.eps, x)


@pytest.mark.parametrize("schedule", [cosine(), scaled_linear()])
@pytest.mark.parametrize("solver", SOLVERS)
def test_resampling_brings_covariance_and_variance_nearer_to_the_truth(solver, schedule):
    """Both are too small, and each further run of the steps helps."""
    runs = [inpainted(solver, schedule, GRID, Resampling(count=count)) for count in (1, 2, 5)]
    assert runs[0].kept < 0.65
    assert runs[-1].kept > max(0.68, 1.25 * runs[0].kept)
    assert [r.kept for r in runs] == sorted(r.kept for r in runs)
    assert runs[0].variance < runs[-1].variance
    assert runs[-1].kept < 1 > runs[-1].variance
    assert [r.evaluations for r in runs] == [10, 19, 46]


def test_many_runs_come_near_the_truth():
    found = inpainted(DDIM(), cosine(), trailing(1000, 25), Resampling(count=20))
    assert found.kept == pytest.approx(1, abs=0.06)
    assert found.variance == pytest.approx(1, abs=0.11)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_noise_of_the_start_is_no_worse_than_fresh_noise(solver):
    """Why the known pixels keep their noise: the same covariance and more of the variance."""
    for runs in (1, 5):
        kept, fresh = (
            inpainted(solver, cosine(), GRID, Resampling(count=runs), fresh=f) for f in (False, True)
        )
        assert kept.kept == pytest.approx(fresh.kept, rel=1e-9)
        assert fresh.variance < kept.variance < 1
