"""Gauss's rule and the quantiles of beta distributions."""

import pytest
import torch

from ldm.diffusion.quadrature import beta_quantiles, gauss_legendre

special = pytest.importorskip("scipy.special")


@pytest.mark.parametrize("points", [1, 2, 5, 16, 32])
def test_polynomials_are_integrated_exactly(points):
    nodes, weights = gauss_legendre(points)
    for degree in range(2 * points):
        total = sum(w * x**degree for x, w in zip(nodes, weights, strict=True))
        assert abs(total - 1 / (degree + 1)) < 1e-14


@pytest.mark.parametrize("ab", [(0.6, 0.6), (1.0, 1.0), (0.5, 2.0), (3.0, 0.7), (5.0, 5.0)])
def test_beta_quantiles_are_those_of_scipy(ab):
    p = torch.cat([torch.linspace(0, 1, 301, dtype=torch.float64), torch.tensor([1e-9, 1 - 1e-9]).double()])
    expected = torch.from_numpy(special.betaincinv(*ab, p.numpy()))
    torch.testing.assert_close(beta_quantiles(p, *ab), expected, rtol=1e-9, atol=1e-12)
