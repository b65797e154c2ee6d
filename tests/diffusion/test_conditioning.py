"""A conditioning is concatenated and moved field by field."""

import pytest
import torch

from ldm.diffusion.conditioning import Conditioning


def test_cat_puts_the_other_batch_behind_field_by_field():
    a = Conditioning(tokens=torch.zeros(2, 3, 4), pooled=torch.zeros(2, 5))
    b = Conditioning(tokens=torch.ones(1, 3, 4), pooled=torch.ones(1, 5))
    both = a.cat(b)
    assert torch.equal(both.tokens[:, 0, 0], torch.tensor([0.0, 0.0, 1.0]))
    assert torch.equal(both.pooled[:, 0], torch.tensor([0.0, 0.0, 1.0]))


def test_empty_conditionings_stay_empty():
    assert Conditioning().cat(Conditioning()).tokens is None
    assert Conditioning().to("cpu").pooled is None


def test_cat_refuses_a_field_that_one_side_lacks():
    with pytest.raises(ValueError, match="pooled is set in one"):
        Conditioning(pooled=torch.zeros(1, 2)).cat(Conditioning())


def test_to_casts_every_field():
    cond = Conditioning(tokens=torch.zeros(1, 2, 3), pooled=torch.zeros(1, 2)).to(dtype=torch.bfloat16)
    assert cond.tokens.dtype == cond.pooled.dtype == torch.bfloat16
