"""CLIP's tokens: captions -> ids (Radford et al. 2021, arXiv:2103.00020, Sec. 2.4)."""

import importlib.util
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ldm.utils.errors import UserError

CLIP_VOCABULARY = 49_408
END_OF_TEXT = 49_407
COMMA = 267
# The special tokens that transformers finds in a text, in this spelling only.
SPECIAL: Mapping[str, tuple[int, ...]] = {"<|startoftext|>": (49_406,), "<|endoftext|>": (END_OF_TEXT,)}
OPEN_CLIPS = re.compile(r"<(start_of_text|end_of_text)>", re.IGNORECASE)  # which is text to transformers


@lru_cache(maxsize=1)
def clip_tokenizer() -> Any:
    """CLIP's byte-pair tokenizer as shipped by open_clip; needs no download.

    Only the file `open_clip/tokenizer.py` is run, not the package's `__init__`: that one imports timm,
    torchvision and transformers (7 s), of which the tokenizer needs nothing.

    Raises: UserError if open_clip is not installed.
    """
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise UserError("open_clip is needed to read captions: pip install open_clip_torch")
    file = Path(package.submodule_search_locations[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("ldm_open_clip_tokenizer", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


@lru_cache(maxsize=65_536)
def _ids(caption: str, length: int, pad: int) -> Tensor:
    tokenizer = clip_tokenizer()
    kept = tokenizer.encode(caption)[: length - 2]
    ids = [tokenizer.sot_token_id, *kept, tokenizer.eot_token_id]
    return torch.tensor(ids + [pad] * (length - len(ids)), device="cpu")


def tokenize(captions: list[str], length: int, pad: int) -> Int[Tensor, "b l"]:
    """Token ids of captions, start and end marked, cut or padded to a length.

    Args:
        captions: b captions.
        length: l, at least 2.
        pad: id of the padding: 0 (open_clip, SD 2.x) or `END_OF_TEXT` (SD 1.x).
    """
    return torch.stack([_ids(caption, length, pad) for caption in captions])


def special_tokens(pad: int) -> Mapping[str, tuple[int, ...]]:
    """Tokens that a text may name, with their ids, as CLIPTokenizer of transformers has them.

    Args:
        pad: id of the padding. That of SD 2.x is "!", which is a token of its own there wherever it stands.
    """
    if pad == END_OF_TEXT:
        return SPECIAL
    return {**SPECIAL, clip_tokenizer().decoder[pad].removesuffix("</w>"): (pad,)}


def added_words(tokens: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Tokens that were added to CLIP's, with the ids that each stands for.

    One with further vectors, named with _1, _2, ..., stands for all of them, as in diffusers' pipelines.

    Args:
        tokens: with their ids.
    """
    ids = {token.lower(): number for token, number in tokens.items()}
    words = {}
    for token, number in ids.items():
        found = [number]
        while (further := ids.get(f"{token}_{len(found)}")) is not None:
            found.append(further)
        words[token] = tuple(found)
    return words


def units(
    text: str, words: Mapping[str, tuple[int, ...]], within: Collection[str] = ()
) -> list[tuple[int, ...]]:
    """Token ids of a text without its start and end; the ids of a word stay together.

    Args:
        text: any text.
        words: what is found before the text is divided into tokens, with ids. Longer words come first. A word
            that begins and ends in letters or digits is not found inside of others; the case of letters does
            not matter, but for special tokens.
        within: words that are found inside of others as well, as transformers finds added tokens.
    """
    found: list[tuple[int, ...]] = []
    known = {word if word in SPECIAL else word.lower(): ids for word, ids in words.items()}
    for i, piece in enumerate(_pattern(tuple(sorted(words)), frozenset(within)).split(text)):
        if i % 2:  # between two pieces of text
            found.append(known[piece if piece in SPECIAL else piece.lower()])
        else:
            found += [(token,) for token in _tokens(piece)]
    return found


@lru_cache(maxsize=64)
def _pattern(words: Iterable[str], within: Collection[str]) -> re.Pattern[str]:
    """Splits a text at words, which stay in the result."""
    parts = []
    for word in sorted(words, key=len, reverse=True):
        text = re.escape(word)
        edge = r"\b" if word not in within and re.fullmatch(r"\w(.*\w)?", word) else ""
        parts.append(f"{edge}{text if word in SPECIAL else f'(?i:{text})'}{edge}")
    return re.compile(f"({'|'.join(parts) or '(?!)'})")


@lru_cache(maxsize=65_536)
def _tokens(text: str) -> tuple[int, ...]:
    return tuple(clip_tokenizer().encode(OPEN_CLIPS.sub(r"< \1>", text)))


def decoded(ids: Iterable[int]) -> str:
    """The text of token ids."""
    text: str = clip_tokenizer().decode(list(ids))
    return text.strip()


def cut_off(caption: str, length: int) -> str:
    """The end of a caption for which `length` tokens, start and end included, leave no room."""
    return decoded(clip_tokenizer().encode(caption)[length - 2 :])


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's tokens with their ids, under the names of transformers, and the merges that make them."""
    tokenizer = clip_tokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return {names.get(token, token): i for token, i in tokenizer.encoder.items()}, list(tokenizer.bpe_ranks)
