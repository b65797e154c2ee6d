"""Guidance is linear in the two predictions, costs one call a step, and is nothing at scale 1."""

import pytest
import torch

from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.prediction import Epsilon
from ldm.diffusion.process import Diffusion
from ldm.diffusion.schedule import linear
from ldm.diffusion.weighting import Uniform
from ldm.guidance import CFG, Branch, Branches, drop_captions, drop_embeddings

DIFFUSION = Diffusion(schedule=linear(), prediction=Epsilon(), weighting=Uniform())


class Backbone:
    """A net whose output depends on data, time and conditioning, and that counts its calls."""

    def __init__(self):
        self.batches = []

    def __call__(self, x_t, t, cond):
        self.batches.append(len(x_t))
        assert len(x_t) == len(t) == len(cond.tokens) == len(cond.pooled)
        return x_t.sin() * (1 + t)[:, None] + cond.tokens.mean(1) + cond.pooled


def guide(net, cond, uncond, scale):
    return CFG()(
        Branches(Branch(net, cond), None if uncond is None else Branch(net, uncond)), scale, DIFFUSION
    )


def values(b=3, d=4):
    draws = torch.Generator().manual_seed(0)
    conds = [
        Conditioning(tokens=torch.randn(b, 2, d, generator=draws), pooled=torch.randn(b, d, generator=draws))
        for _ in range(2)
    ]
    return torch.randn(b, d, generator=draws), torch.rand(b, generator=draws), *conds


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 3.0, 7.5])
def test_guidance_is_the_formula_in_one_call_on_two_halves(scale):
    x_t, t, cond, uncond = values()
    backbone = Backbone()
    out = guide(backbone, cond, uncond, scale)(x_t, t)
    assert backbone.batches == [6]
    out_u, out_c = (Backbone()(x_t, t, c) for c in (uncond, cond))
    torch.testing.assert_close(out, out_u + scale * (out_c - out_u))


def test_scale_one_is_the_conditional_net_alone():
    x_t, t, cond, uncond = values()
    for other in (uncond, None):
        backbone = Backbone()
        assert torch.equal(guide(backbone, cond, other, 1.0)(x_t, t), Backbone()(x_t, t, cond))
        assert backbone.batches == [3]


def test_scale_zero_is_the_unconditional_net():
    x_t, t, cond, uncond = values()
    assert torch.equal(guide(Backbone(), cond, uncond, 0.0)(x_t, t), Backbone()(x_t, t, uncond))


def test_equal_conditionings_are_guided_nowhere():
    x_t, t, cond, _ = values()
    assert torch.equal(guide(Backbone(), cond, cond, 7.5)(x_t, t), Backbone()(x_t, t, cond))


def test_halves_in_bfloat16_are_combined_in_float32():
    x_t, t, cond, uncond = values()
    out_u, out_c = (Backbone()(x_t, t, c).bfloat16().float() for c in (uncond, cond))
    out = guide(lambda *a: Backbone()(*a).bfloat16(), cond, uncond, 7.5)(x_t, t)
    assert torch.equal(out, out_u + 7.5 * (out_c - out_u))


def test_a_model_that_is_told_nothing_is_not_guided():
    x_t, t, cond, _ = values()
    assert torch.equal(guide(Backbone(), cond, None, 3.0)(x_t, t), Backbone()(x_t, t, cond))


def test_captions_are_dropped_where_u_is_below_the_probability():
    u = torch.tensor([0.0, 0.09, 0.1, 0.9])
    assert drop_captions(["a", "b", "c", "d"], 0.1, u) == ["", "", "c", "d"]
    assert drop_captions(["a", "b", "c", "d"], 0.0, u) == ["a", "b", "c", "d"]
    assert drop_captions(["a", "b", "c", "d"], 1.0, u) == [""] * 4


@pytest.mark.parametrize("parts", [("tokens",), ("pooled",), ("tokens", "pooled")])
def test_embeddings_are_dropped_as_captions_are(parts):
    """Encoding what `drop_captions` leaves is dropping what was encoded; other fields stay."""

    def encode(captions):
        rows = torch.tensor([[float(len(c)), 1.0] for c in captions])
        known = {"tokens": rows[:, None, :].expand(-1, 3, -1), "pooled": rows}
        return Conditioning(**{name: known[name] for name in parts})

    captions, u = ["a", "", "cat", "dogs"], torch.tensor([0.0, 0.1, 0.3, 0.29])
    for probability in (0.0, 0.3, 1.0):
        expected = encode(drop_captions(captions, probability, u))
        found = drop_embeddings(encode(captions), encode([""]), probability, u)
        for name in ("tokens", "pooled"):
            mine, theirs = getattr(found, name), getattr(expected, name)
            assert (mine is None) == (theirs is None) == (name not in parts)
            assert mine is None or torch.equal(mine, theirs)


def test_impossible_dropout_is_refused():
    with pytest.raises(ValueError, match=r"caption_dropout must be in"):
        drop_captions(["a"], 1.5, torch.zeros(1))
