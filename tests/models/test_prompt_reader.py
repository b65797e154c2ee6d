"""Prompts become token ids and weights."""

import pytest

from ldm.models.prompt_reader import PromptReader
from ldm.models.tokenizer import END_OF_TEXT, special_tokens

START, END, A, CAT = 49_406, 49_407, 320, 2368
READER = PromptReader({**special_tokens(END), "<x>": (50_000, 50_001)}, 6, END)


def test_a_short_prompt_is_one_chunk_with_start_end_and_padding():
    for long_prompts in ("cut", "chunks"):
        ids, weights = READER.read("a cat", long_prompts=long_prompts)
        assert ids == [[START, A, CAT, END, END, END]]
        assert weights == [[1.0] * 6]
    assert PromptReader({}, 6, 0).read("a cat").ids == [[START, A, CAT, END_OF_TEXT, 0, 0]]


def test_weights_stand_at_their_tokens():
    ids, weights = READER.read("a (cat:1.5)", prompt_weights=True)
    assert ids == [[START, A, CAT, END, END, END]]
    assert weights == [[1.0, 1.0, 1.5, 1.0, 1.0, 1.0]]
    assert {w for row in READER.read("a (cat:1.5)").weights for w in row} == {1.0}
    assert READER.read("(<x>:2)", prompt_weights=True).weights == [[1.0, 2.0, 2.0, 1.0, 1.0, 1.0]]


def test_long_prompts_are_cut_or_divided():
    text = "a cat a cat a"
    assert READER.read(text).ids == [[START, A, CAT, A, CAT, END]]
    divided = [[START, A, CAT, A, CAT, END], [START, A, END, END, END, END]]
    assert READER.read(text, long_prompts="chunks").ids == divided
    parts = READER.read("a BREAK cat", prompt_weights=True, long_prompts="chunks").ids
    assert [row[1] for row in parts] == [A, CAT]
    assert [len(row) for row in READER.read("a BREAK cat", prompt_weights=True).ids] == [6]
    with pytest.raises(ValueError, match="long_prompts must be one of"):
        READER.read(text, long_prompts="all")


def test_the_end_that_is_cut_off_is_text():
    assert READER.cut_off("a cat a cat") == ""
    assert READER.cut_off("a cat a cat a photo <x> of a") == "a photo <x> of a"
    assert READER.cut_off("a cat a <x>") == "<x>"  # of which the first vector has room
