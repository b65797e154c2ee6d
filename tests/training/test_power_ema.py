"""Power-function averages against integrals, and averages made of others against those that were kept."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from ldm.training.power_ema import (
    PowerFunction,
    Profile,
    gamma_of,
    inner_products,
    posthoc_weights,
    sigma_rel_of,
)
from ldm.utils.ema import MovingAverage, twin_of

KEPT = (0.05, 0.10)
TOTAL, BATCH, EVERY = 20_000, 10, 500


def density(profile, tau):
    gamma = gamma_of(profile.sigma_rel)
    return (gamma + 1) * (tau / profile.images) ** gamma / profile.images * (tau <= profile.images)


@pytest.mark.parametrize("sigma_rel", [0.002, 0.01, 0.05, 0.1, 0.2, 0.28])
def test_gamma_and_sigma_rel_are_inverse(sigma_rel):
    assert sigma_rel_of(gamma_of(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-9)


def test_the_exponents_are_those_of_the_paper():
    """Karras et al. 2024, Section 3.2: 16.97 and 6.94 for 0.05 and 0.10."""
    assert [round(gamma_of(s), 2) for s in KEPT] == [16.97, 6.94]


@pytest.mark.parametrize("sigma_rel", [0.05, 0.2])
def test_sigma_rel_is_the_standard_deviation_of_the_profile(sigma_rel):
    p = Profile(images=1, sigma_rel=sigma_rel)
    mean = quad(lambda tau: tau * density(p, tau), 0, 1)[0]
    variance = quad(lambda tau: (tau - mean) ** 2 * density(p, tau), 0, 1)[0]
    assert variance**0.5 == pytest.approx(sigma_rel, rel=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.2887, 1.0])
def test_a_width_that_no_power_function_has_is_refused(sigma_rel):
    with pytest.raises(ValueError, match=r"sigma_rel must be in \(0, 0\.2887\), got"):
        PowerFunction(sigma_rel=sigma_rel)


def test_inner_products_equal_integrals():
    a = [Profile(images=t, sigma_rel=s) for t in (300, 1000) for s in (0.05, 0.15, 0.25)]
    b = [Profile(images=t, sigma_rel=s) for t in (300, 700, 2000) for s in (0.08, 0.2)]
    expected = [
        [
            quad(lambda tau, p=p, q=q: density(p, tau) * density(q, tau), 0, min(p.images, q.images))[0]
            for q in b
        ]
        for p in a
    ]
    np.testing.assert_allclose(inner_products(a, b), expected, rtol=1e-7)


def test_the_twin_weighs_each_step_by_the_integral_of_its_profile():
    """Also where the steps bring different numbers of images."""
    seen = [0, 7, 10, 100, 164, 300]
    net = nn.Linear(1, 1).double()
    average = MovingAverage(twin := twin_of(net), net, PowerFunction(sigma_rel=0.1))
    values = torch.randn(5, generator=torch.Generator().manual_seed(0)).tolist()
    for before, after, value in zip(seen[:-1], seen[1:], values, strict=True):
        with torch.no_grad():
            net.weight.fill_(value)
        average.update(before, after)
    n = np.array(seen, dtype=np.float64) ** (gamma_of(0.1) + 1)
    assert twin.weight.item() == pytest.approx(float(np.diff(n) @ values / n[-1]), rel=1e-5)


@pytest.fixture(scope="module")
def trajectory():
    """Weights that wander and settle, (steps, 64), and what is kept of them: (profile -> average, (64,))."""
    steps = TOTAL // BATCH
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(steps, 64, generator=generator, dtype=torch.float64)
    n = torch.arange(1, steps + 1, dtype=torch.float64)[:, None] / steps
    return noise.cumsum(0) / steps**0.5 + (1 - n).exp() + 0.5 * noise


def tracked(weights, sigma_rel):
    """The average after each step."""
    decay, mean, means = PowerFunction(sigma_rel=sigma_rel), torch.zeros_like(weights[0]), []
    for i, w in enumerate(weights):
        mean = torch.lerp(mean, w, 1 - decay(i * BATCH, (i + 1) * BATCH))
        means.append(mean)
    return means


def snapshots_of(weights, dtype=torch.float64):
    kept = {}
    for s in KEPT:
        means = tracked(weights, s)
        for images in range(EVERY, TOTAL + 1, EVERY):
            kept[Profile(images=images, sigma_rel=s)] = means[images // BATCH - 1].to(dtype).double()
    return kept


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("at", [TOTAL, TOTAL // 2])
@pytest.mark.parametrize(
    ("sigma_rel", "tolerance"), [(0.03, 0.03), (0.04, 0.01), (0.07, 0.003), (0.12, 0.003), (0.2, 0.02)]
)
def test_an_average_made_of_snapshots_is_the_one_tracked(trajectory, sigma_rel, tolerance, at, dtype):
    """Relative to its distance from the last weights; 40 (or 20) moments of two averages, also in float16."""
    kept = {p: v for p, v in snapshots_of(trajectory, dtype).items() if p.images <= at}
    wanted = tracked(trajectory, sigma_rel)[at // BATCH - 1]
    weights, distance = posthoc_weights(list(kept), Profile(images=at, sigma_rel=sigma_rel))
    made = sum(w * v for w, v in zip(weights, kept.values(), strict=True))
    assert weights.sum() == pytest.approx(1.0)
    assert distance < tolerance
    assert (made - wanted).norm() < tolerance * (trajectory[at // BATCH - 1] - wanted).norm()
    nearest = min((made_of - wanted).norm() for made_of in kept.values())
    assert (made - wanted).norm() < 0.3 * nearest


def test_one_that_was_kept_is_itself():
    kept = [Profile(images=t, sigma_rel=s) for t in (100, 200, 300) for s in KEPT]
    weights, distance = posthoc_weights(kept, kept[3])
    assert weights.tolist() == [0, 0, 0, 1, 0, 0]
    assert distance == 0


def test_the_least_squares_without_that_shortcut_find_it_too():
    kept = [Profile(images=t, sigma_rel=s) for t in (100, 200, 300) for s in KEPT]
    weights, distance = posthoc_weights(kept, Profile(images=200, sigma_rel=0.1 + 1e-9))
    np.testing.assert_allclose(weights, [0, 0, 0, 1, 0, 0], atol=1e-6)
    assert distance < 1e-6


def test_weights_are_those_of_least_squares_between_sampled_profiles():
    kept = [Profile(images=t, sigma_rel=s) for t in (400, 700, 1000) for s in KEPT]
    target = Profile(images=1000, sigma_rel=0.15)
    tau = (np.arange(200_000) + 0.5) / 200
    sampled = np.stack([density(p, tau) for p in kept], axis=1)
    expected = np.linalg.lstsq(sampled, density(target, tau), rcond=None)[0]
    weights, distance = posthoc_weights(kept, target)
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-4)
    left = sampled @ weights - density(target, tau)
    assert distance == pytest.approx(np.linalg.norm(left) / np.linalg.norm(density(target, tau)), rel=1e-4)


def test_what_the_snapshots_do_not_hold_is_far():
    kept = [Profile(images=t, sigma_rel=s) for t in (400, 700, 1000) for s in KEPT]
    assert posthoc_weights(kept, Profile(images=1000, sigma_rel=0.004))[1] > 0.5
    assert posthoc_weights(kept, Profile(images=1000, sigma_rel=0.12))[1] < 0.1
