"""Chunks of long prompts, against the web UI's rule written another way."""

import random

import pytest

from ldm.models.prompt_chunks import BACKTRACK, Unit, chunks, cut
from ldm.models.tokenizer import COMMA

LENGTH = 75


def units(ids):
    return [Unit((token,)) for token in ids]


def reference(ids: list[int]) -> list[list[int]]:
    """Takes 75 tokens, or as many as end at a comma near the end if another token would follow."""
    parts = []
    while len(ids) > LENGTH:
        part = ids[:LENGTH]
        near = [i for i in range(LENGTH) if part[i] == COMMA and LENGTH - i <= BACKTRACK]
        end = near[-1] + 1 if near and ids[LENGTH] != COMMA else LENGTH
        parts.append(ids[:end])
        ids = ids[end:]
    return [*parts, ids] if ids or not parts else parts


@pytest.mark.parametrize("seed", range(30))
def test_prompts_are_divided_as_in_the_web_ui(seed):
    rng = random.Random(seed)
    ids = [
        COMMA if rng.random() < rng.choice([0.02, 0.1, 0.4]) else rng.randrange(300, 400) for _ in range(250)
    ]
    ids = ids[: rng.randrange(250)]
    found = chunks(units(ids), LENGTH)
    assert [[token for token, _ in chunk] for chunk in found] == reference(ids)


@pytest.mark.parametrize(
    ("before", "comma", "after", "sizes"),
    [
        (75, False, 0, [75]),
        (75, False, 1, [75, 1]),
        (54, True, 30, [75, 10]),  # the comma is one token too far away
        (55, True, 30, [56, 30]),
        (74, True, 5, [75, 5]),
        (0, False, 0, [0]),
    ],
)
def test_what_follows_a_comma_near_the_end_moves_on(before, comma, after, sizes):
    ids = [1] * before + [COMMA] * comma + [2] * after
    assert [len(chunk) for chunk in chunks(units(ids), LENGTH)] == sizes


def test_breaks_end_a_chunk_and_words_of_several_vectors_stay_whole():
    end, word = Unit(()), Unit((7, 8, 9), 1.5)
    assert chunks([Unit((1,)), end, end, Unit((2,))], 5) == [[(1, 1.0)], [], [(2, 1.0)]]
    assert chunks([Unit((1,)), end], 5) == [[(1, 1.0)]]
    whole = [(7, 1.5), (8, 1.5), (9, 1.5)]
    assert chunks([*units([1, 2, 3]), word], 5) == [[(1, 1.0), (2, 1.0), (3, 1.0)], whole]
    assert cut([*units([1, 2, 3]), word], 5) == [(1, 1.0), (2, 1.0), (3, 1.0), *whole[:2]]
