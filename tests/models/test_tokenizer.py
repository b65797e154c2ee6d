import subprocess
import sys

import pytest

from ldm.models.tokenizer import (
    END_OF_TEXT,
    added_words,
    clip_tokenizer,
    cut_off,
    decoded,
    special_tokens,
    tokenize,
    units,
    vocabulary,
)

START, END = 49_406, 49_407


def test_tokenizer_is_that_of_clip():
    """Golden values: openai/clip-vit-large-patch14's tokenizer."""
    ids = clip_tokenizer()(["a photo of a cat", ""], context_length=8)
    assert ids.tolist() == [[START, 320, 1125, 539, 320, 2368, END, 0], [START, END, 0, 0, 0, 0, 0, 0]]


def test_tokenizer_is_read_without_the_rest_of_open_clip():
    code = """
import sys
from ldm.models.tokenizer import clip_tokenizer
clip_tokenizer()(["red heart"])
print([name for name in ("open_clip", "timm", "torchvision", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_captions_are_padded_to_a_length_and_keep_their_end_when_cut():
    ids = tokenize(["cat", "a photo of a cat"], 4, pad=7)
    assert ids.tolist() == [[START, 2368, END, 7], [START, 320, 1125, END]]
    assert END_OF_TEXT == END


@pytest.mark.parametrize(
    ("length", "lost"), [(8, ""), (7, ""), (6, "cat"), (4, "of a cat"), (2, "a photo of a cat")]
)
def test_what_is_cut_off_is_said(length: int, lost: str):
    assert cut_off("a photo of a cat", length) == lost


@pytest.mark.parity
@pytest.mark.parametrize(
    "caption", ["", "Red Heart!", "don't  stop", "naïve café — 東京 🙂", "x" * 40, "1234 5th ave."]
)
def test_tokens_are_those_of_transformers(caption: str):
    """Their tokenizer, made of the vocabulary and merges that open_clip ships."""
    transformers = pytest.importorskip("transformers")
    tokens, merges = vocabulary()
    theirs = transformers.CLIPTokenizer(vocab=tokens, merges=merges, pad_token="<|endoftext|>")
    expected = theirs([caption], padding="max_length", max_length=24, truncation=True).input_ids
    assert tokenize([caption], 24, END_OF_TEXT).tolist() == expected


@pytest.fixture(scope="module")
def theirs():
    """Makes transformers' tokenizer with a padding token: that of SD 1.x, or "!" of SD 2.x."""
    transformers = pytest.importorskip("transformers")
    tokens, merges = vocabulary()
    return {
        pad: transformers.CLIPTokenizer(vocab=tokens, merges=merges, pad_token=token)
        for pad, token in ((END, "<|endoftext|>"), (0, "!"))
    }


@pytest.mark.parity
@pytest.mark.parametrize("pad", [END, 0])
@pytest.mark.parametrize(
    "caption",
    [
        *("a cat!", "wow!!! great", "!", "a ! b", "", " "),
        *("a <|endoftext|> b", "<|startoftext|>x", "<|endoftext|>,a", "x<|ENDOFTEXT|>y"),
        *("<end_of_text> a", "!<start_of_text>", "<START_OF_TEXT>"),
    ],
)
def test_special_tokens_are_those_of_transformers(theirs, caption: str, pad: int):
    """The end of a text named in a prompt, the padding of 2.x, and open_clip's own, which are text."""
    found = [token for ids in units(caption, special_tokens(pad)) for token in ids]
    assert found == theirs[pad](caption).input_ids[1:-1]


@pytest.mark.parity
def test_added_words_are_found_as_transformers_finds_them(theirs):
    words = {"<cat-toy>": (50_000,), "<cat-toy>_1": (50_001,)}
    tokenizer = theirs[END]
    tokenizer.add_tokens(list(words))
    ids = {tokenizer.convert_tokens_to_ids(word): own[0] for word, own in words.items()}
    for caption in ("a <cat-toy> on a chair", "<CAT-toy>, <cat-toy>_1x", "x<cat-toy><cat-toy>"):
        expected = [ids.get(token, token) for token in tokenizer(caption).input_ids[1:-1]]
        found = [token for unit in units(caption, words) for token in unit]
        assert found == expected


def test_a_word_of_letters_is_not_found_within_others():
    words = {"cat": (50_000, 50_001)}
    assert units("a cat", words) == [(320,), (50_000, 50_001)]
    assert units("Cat, x", words)[0] == (50_000, 50_001)
    assert (50_000, 50_001) not in units("concatenate cats", words)


def test_ids_are_text_again():
    assert decoded([320, 1125, 539, 320, 2368]) == "a photo of a cat"


ADDED = {"<cat-toy>": 49_408, "<Dog>": 49_409, "<dog>_1": 49_410, "<cat-toy>s": 49_411, "sks": 49_412}


def encoded(caption: str) -> list[int]:
    words = added_words(ADDED)
    return [token for unit in units(caption, words, within=tuple(words)) for token in unit]


def test_added_tokens_are_one_token_each_wherever_they_stand():
    """Golden values: transformers 5 (without the expansion of several vectors)."""
    assert encoded("a <cat-toy> backpack") == [320, 49_408, 14_894]
    assert encoded("a <CAT-toy>, b") == [320, 49_408, 267, 321]
    assert encoded("<cat-toy>s") == [49_411]
    assert encoded("asks")[1] == 49_412
    assert encoded("a cat") == [320, 2368]


def test_a_token_of_several_vectors_stands_for_all_of_them():
    assert encoded("x<dog>") == [343, 49_409, 49_410]
    assert encoded("<dog>_1") == [49_410]
