"""Captions become conditioning, and a guidance rule gets the branches that it evaluates."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.diffusion.conditioning import Conditioning, stacked
from ldm.generation.conditioning import encode, in_float32
from ldm.generation.reading import Reading
from ldm.models.text_encoder import NullTextEncoder, TinyTextEncoder
from ldm.utils.errors import UserError


class Skipping:
    supports = frozenset({"clip_skip"})

    def encode(self, captions: list[str], clip_skip: int = 0) -> Conditioning:
        return Conditioning(tokens=torch.full((len(captions), 1, 1), float(clip_skip)))


def test_clip_skip_reaches_an_encoder_that_supports_it():
    for skip in (0, 2):
        tokens = encode(Skipping(), ["a", "b"], skip).tokens
        assert tokens is not None
        assert tokens.flatten().tolist() == [skip, skip]


def test_clip_skip_is_refused_by_an_encoder_that_would_ignore_it():
    encoder = TinyTextEncoder(8, 1, 1, 8)
    assert encode(encoder, ["a"]).tokens is not None
    with pytest.raises(UserError, match="clip_skip must be 0 for TinyTextEncoder"):
        encode(encoder, ["a"], 1)


def test_an_encoder_without_text_gives_empty_conditioning():
    assert encode(NullTextEncoder(), ["", ""]).is_empty


def test_a_net_computes_in_its_dtype_and_answers_in_float32():
    counted: list[int] = []
    seen: list[torch.dtype] = []

    def backbone(x_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        seen.append(x_t.dtype)
        return 2 * x_t

    net = in_float32(backbone, torch.bfloat16, counted.append)
    out = net(torch.ones(3, 1, 2, 2), torch.zeros(3), Conditioning())
    assert (seen, counted) == ([torch.bfloat16], [3])
    assert out.dtype == torch.float32
    assert torch.equal(out, torch.full((3, 1, 2, 2), 2.0))


def test_rows_with_other_numbers_of_tokens_do_not_see_padding():
    """Each row is what it is alone."""
    calls: list[int] = []

    def backbone(x_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        assert cond.lengths is None
        return x_t + t[:, None] + cond.tokens.softmax(dim=1)[:, 0]

    net = in_float32(backbone, torch.float32, calls.append)
    rows = [torch.full((n, 2), 1.0) for n in (2, 5, 2)]
    x_t, t = torch.arange(6.0).view(3, 2), torch.arange(3.0)
    out = net(x_t, t, stacked(rows))
    alone = [net(x_t[i : i + 1], t[i : i + 1], stacked([rows[i]])) for i in range(3)]
    assert torch.equal(out, torch.cat(alone))
    assert calls == [3, 1, 1, 1]


def test_a_reading_reaches_an_encoder_that_supports_it_and_is_refused_by_others():
    encoder = TinyTextEncoder(8, 1, 1, 8)
    with pytest.raises(UserError, match="prompt_weights must be False for TinyTextEncoder"):
        encode(encoder, ["a"], reading=Reading(prompt_weights=True))
    with pytest.raises(UserError, match="long_prompts must be cut for TinyTextEncoder"):
        encode(encoder, ["a"], reading=Reading(long_prompts="chunks"))

    class Reader:
        supports = frozenset({"prompt_weights", "long_prompts"})

        def encode(self, captions: list[str], prompt_weights: bool, long_prompts: str) -> Conditioning:
            assert (prompt_weights, long_prompts) == (True, "chunks")
            return Conditioning()

    assert encode(Reader(), ["a"], reading=Reading(True, "chunks")).is_empty
