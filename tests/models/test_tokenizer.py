import subprocess
import sys

import pytest

from ldm.models.tokenizer import END_OF_TEXT, clip_tokenizer, cut_off, encoded, tokenize, vocabulary

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


ADDED = (("<cat-toy>", 49_408), ("<Dog>", 49_409), ("<dog>_1", 49_410), ("<cat-toy>s", 49_411))


def test_added_tokens_are_one_token_each_wherever_they_stand():
    """Golden values: transformers 5 (without the expansion of several vectors)."""
    assert encoded("a <cat-toy> backpack", ADDED) == [320, 49_408, 14_894]
    assert encoded("a <CAT-toy>, b", ADDED) == [320, 49_408, 267, 321]
    assert encoded("<cat-toy>s", ADDED) == [49_411]
    assert encoded("a cat", ADDED) == encoded("a cat") == [320, 2368]


def test_a_token_of_several_vectors_stands_for_all_of_them():
    assert encoded("x<dog>", ADDED) == [343, 49_409, 49_410]
    assert encoded("<dog>_1", ADDED) == [49_410]
