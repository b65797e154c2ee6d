"""Bounds of x0: the published formulas, and estimates that still stand for the same noisy data."""

import math

import pytest
import torch

from ldm.diffusion.prediction import Denoised
from ldm.diffusion.schedule import linear
from ldm.diffusion.thresholding import Clip, Dynamic, Thresholding, thresholded


def test_clipped_estimates_stand_for_the_same_noisy_data():
    schedule, x, t = linear(), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([500.0])
    x0 = torch.tensor([-3.0, 0.5, 2.0])
    alpha, sigma = schedule(t, 1)

    def denoise(x_t, t):
        return Denoised(x0, (x_t - alpha * x0) / sigma)

    found = thresholded(denoise, schedule, Clip())(x, t)
    assert found.x0.tolist() == [-1.0, 0.5, 1.0]
    torch.testing.assert_close(alpha * found.x0 + sigma * found.eps, x)
    assert thresholded(denoise, schedule, None) is denoise


@pytest.mark.parity
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995, 1.0])
def test_dynamic_thresholding_is_that_of_diffusers(quantile):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=quantile, sample_max_value=5.0
    )
    x0 = 3 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = Dynamic(quantile=quantile, max_threshold=5.0)(x0)
    torch.testing.assert_close(ours, theirs._threshold_sample(x0))
    assert ours.abs().max() <= 1


def test_dynamic_thresholding_leaves_data_in_range_alone_and_samples_apart():
    x0 = torch.rand(2, 3, 4, 4) * 2 - 1
    assert torch.equal(Dynamic()(x0), x0)
    assert torch.equal(Dynamic()(torch.cat([x0, 9 * x0]))[:2], x0)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Clip(bound=0.0), "bound"),
        (lambda: Clip(bound=math.nan), "bound"),
        (lambda: Dynamic(quantile=0.0), "quantile"),
        (lambda: Dynamic(max_threshold=0.5), "max_threshold"),
    ],
)
def test_impossible_bounds_are_refused(make, key):
    with pytest.raises(ValueError, match=key):
        make()


@pytest.mark.parametrize("rule", [Clip(), Dynamic()])
def test_rules_follow_the_protocol(rule):
    assert isinstance(rule, Thresholding)
