"""A conditioning is concatenated and moved field by field."""

from dataclasses import replace
from functools import reduce

import pytest
import torch

from ldm.diffusion.conditioning import Conditioning, stacked


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


def test_rows_of_different_lengths_are_padded_and_taken_apart_again():
    """By `stacked`, by `cat`, and by `cat` of batches that are padded already."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, 4, generator=generator) for n in (3, 6, 3, 9)]
    pooled = torch.arange(4.0)[:, None]
    at_once = replace(stacked(rows), pooled=pooled)
    first, second = (
        replace(stacked(rows[:2]), pooled=pooled[:2]),
        replace(stacked(rows[2:]), pooled=pooled[2:]),
    )
    singles = [Conditioning(tokens=row[None], pooled=pooled[i : i + 1]) for i, row in enumerate(rows)]
    for cond in (at_once, first.cat(second), reduce(Conditioning.cat, singles)):
        assert torch.equal(cond.tokens, at_once.tokens)
        assert cond.lengths.tolist() == [3, 6, 3, 9]
        parts = cond.by_length()
        assert [places.tolist() for places, _ in parts] == [[0, 2], [1], [3]]
        for places, part in parts:
            assert part.lengths is None
            assert torch.equal(part.tokens, torch.stack([rows[i] for i in places]))
            assert torch.equal(part.pooled, pooled[places])
    assert stacked(rows[:1]).lengths is None
    assert singles[0].cat(singles[2]).lengths is None
    with pytest.raises(ValueError, match="different numbers"):
        singles[0].by_length()
