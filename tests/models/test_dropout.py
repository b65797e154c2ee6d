"""Keyed dropout: torch's in distribution, a function of (seed, layer, key, visit) in its draws."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ldm.models.dropout import KeyedDropout, dropouts_of, give_keys

KEYS = torch.arange(64) + 2**40


def keyed(p=0.3, seed=1, key=KEYS, visit=0, layers=1):
    net = nn.Sequential(*(KeyedDropout(p) for _ in range(layers)))
    give_keys(dropouts_of(net), seed, key, torch.full_like(key, visit))
    return net


def test_elements_are_dropped_with_the_probability_and_the_mean_stays():
    out = keyed()(torch.ones(64, 16, 8, 8))
    dropped = out == 0
    assert dropped.float().mean() == pytest.approx(0.3, abs=0.006)  # 3.3 standard deviations
    assert out[~dropped].unique() == pytest.approx(1 / 0.7)
    assert out.mean() == pytest.approx(1.0, abs=0.009)


def test_a_mask_does_not_depend_on_the_batch_and_does_on_everything_else():
    x = torch.ones(64, 4, 4)
    whole = keyed()(x)
    assert torch.equal(keyed(key=KEYS[7:9])(x[:2]), whole[7:9])
    for other in ({"seed": 2}, {"visit": 1}, {"key": KEYS + 64}):
        assert ((keyed(**other)(x) == 0) != (whole == 0)).float().mean() == pytest.approx(0.42, abs=0.07)
    layers = [m(x) == 0 for m in keyed(layers=2)]
    assert (layers[0] != layers[1]).float().mean() == pytest.approx(0.42, abs=0.07)


def test_a_backward_pass_that_computes_again_draws_the_same():
    x = torch.randn(64, 8, requires_grad=True)
    net = keyed()
    direct = torch.autograd.grad(net(x).square().sum(), x)[0]
    again = torch.autograd.grad(
        checkpoint(net, x, use_reentrant=False, preserve_rng_state=False).square().sum(), x
    )[0]
    assert torch.equal(direct, again)


def test_nothing_is_dropped_in_evaluation_or_at_zero_and_torch_draws_without_keys():
    x = torch.ones(4, 100)
    assert torch.equal(keyed(key=KEYS[:4]).eval()(x), x)
    assert torch.equal(KeyedDropout(0.0)(x), x)
    assert dropouts_of(nn.Sequential(KeyedDropout(0.0))) == []
    assert 0 < int((KeyedDropout(0.5)(x) == 0).sum()) < 400
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        KeyedDropout(1.0)
