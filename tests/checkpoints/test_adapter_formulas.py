"""Formulas of adapters against their definitions, written out with other operations."""

import pytest
import torch
from torch.nn import functional as F

from ldm.checkpoints.adapter_formulas import (
    Decomposed,
    Difference,
    Hadamard,
    Kronecker,
    LowRank,
    Replacement,
    UnfitError,
    low_rank,
    product,
)
from ldm.models.lora import Update

G = torch.Generator().manual_seed(0)
close = torch.testing.assert_close


def randn(*shape):
    return torch.randn(shape, generator=G)


W, KERNEL = randn(6, 4), randn(6, 4, 3, 3)


def test_low_rank_layers_in_sequence_are_the_layer_of_the_product():
    """Linear and convolutional: up(down(x)), as adapters are trained."""
    x, down, up = randn(2, 4), randn(2, 4), randn(6, 2)
    close(F.linear(x, LowRank(down=down, up=up, scale=0.5).delta(W)), 0.5 * F.linear(F.linear(x, down), up))
    close(low_rank(Update(down=down, up=up, scale=3.0)).delta(W), 3.0 * up @ down)
    x, down, up = randn(2, 4, 5, 5), randn(2, 4, 3, 3), randn(6, 2, 1, 1)
    close(F.conv2d(x, LowRank(down=down, up=up, scale=1.0).delta(KERNEL)), F.conv2d(F.conv2d(x, down), up))


def test_a_tucker_core_is_a_convolution_between_two_pointwise_ones():
    x, down, core, up = randn(2, 4, 5, 5), randn(2, 4, 1, 1), randn(3, 2, 3, 3), randn(6, 3, 1, 1)
    delta = LowRank(down=down, up=up, scale=2.0, core=core).delta(KERNEL)
    close(F.conv2d(x, delta), 2.0 * F.conv2d(F.conv2d(F.conv2d(x, down), core), up), rtol=1e-4, atol=1e-4)


def test_pointwise_convolutions_and_linear_layers_are_the_same_weights():
    down, up = randn(2, 4), randn(6, 2)
    plain = LowRank(down=down, up=up, scale=1.0).delta(W)
    conv = LowRank(down=down[:, :, None, None], up=up[:, :, None, None], scale=1.0)
    assert torch.equal(conv.delta(W), plain)
    assert torch.equal(conv.delta(W[:, :, None, None])[:, :, 0, 0], plain)


def test_kronecker_blocks_are_the_second_factor_times_entries_of_the_first():
    first, second = randn(3, 2), randn(2, 2)
    delta = Kronecker(first=first, second=second, scale=2.0).delta(W)
    for i in range(3):
        for j in range(2):
            close(delta[2 * i : 2 * i + 2, 2 * j : 2 * j + 2], 2.0 * first[i, j] * second)
    kernel = randn(2, 2, 3, 3)
    delta = Kronecker(first=first, second=kernel, scale=1.0).delta(KERNEL)
    close(delta[2:4, 2:4], first[1, 1] * kernel)


def test_hadamard_differences_and_replacements():
    a, b = randn(6, 4), randn(6, 4)
    close(Hadamard(first=a, second=b, scale=0.5).delta(W), 0.5 * a * b)
    close(Difference(value=a).delta(W), a)
    close(W + Replacement(value=b).delta(W), b)


@pytest.mark.parametrize(("magnitude", "axes"), [((6,), 1), ((6, 1), 1), ((1, 4), 0)])
def test_dora_has_the_direction_of_the_sum_and_the_magnitude_that_was_learned(magnitude, axes):
    """Its magnitude being the weight's own and the update zero, nothing changes."""
    inner = LowRank(down=randn(2, 4), up=randn(6, 2), scale=1.0)
    m = randn(*magnitude).abs() + 1
    new = W + Decomposed(inner=inner, magnitude=m).delta(W)
    close(new.norm(dim=axes), m.flatten())
    close(F.cosine_similarity(new, W + inner.delta(W), dim=axes), torch.ones(m.numel()))
    own = W.norm(dim=axes, keepdim=True).view(magnitude)
    zero = LowRank(down=randn(2, 4), up=torch.zeros(6, 2), scale=1.0)
    close(Decomposed(inner=zero, magnitude=own).delta(W), torch.zeros(6, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "formula",
    [
        LowRank(down=randn(2, 6), up=randn(4, 2), scale=1.0),  # the transpose has as many numbers
        LowRank(down=randn(3, 4), up=randn(6, 2), scale=1.0),
        LowRank(down=randn(4), up=randn(6, 1), scale=1.0),
        LowRank(down=torch.tensor(1.0), up=torch.tensor(1.0), scale=1.0),
        Hadamard(first=randn(6, 4), second=randn(4, 6), scale=1.0),
        Kronecker(first=randn(2, 3), second=randn(2, 2), scale=1.0),
        Kronecker(first=randn(6), second=randn(4, 1), scale=1.0),
        Difference(value=torch.tensor(1.0)),
        Replacement(value=randn(4, 6)),
        Decomposed(inner=Difference(value=W), magnitude=randn(4)),
    ],
)
def test_other_shapes_are_refused_and_named(formula):
    with pytest.raises(UnfitError, match=r"\(.*\)"):
        formula.delta(W)


def test_a_direction_of_zeros_and_kernels_of_another_order_are_refused():
    zero = Decomposed(inner=Difference(value=torch.zeros(6, 4)), magnitude=torch.ones(6))
    with pytest.raises(UnfitError, match="no direction"):
        zero.delta(torch.zeros(6, 4))
    with pytest.raises(UnfitError, match="for a weight"):
        Difference(value=randn(6, 2, 6, 3)).delta(randn(6, 4, 3, 3))
    assert product(randn(6, 2), randn(2, 4)).dtype == torch.float32
