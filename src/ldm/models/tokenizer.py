"""CLIP's tokens: captions -> ids (Radford et al. 2021, arXiv:2103.00020, Sec. 2.4)."""

import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ldm.utils.errors import UserError

CLIP_VOCABULARY = 49_408
END_OF_TEXT = 49_407


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


Added = tuple[tuple[str, int], ...]
"""Tokens that were added to CLIP's, each with its id."""


@lru_cache(maxsize=32)
def _splitter(added: Added) -> tuple[re.Pattern[str], dict[str, list[int]]]:
    """Pattern of the added tokens, longest first, and the ids of each: token, token_1, ... are one word."""
    ids = {token.lower(): number for token, number in added}
    names = "|".join(map(re.escape, sorted(ids, key=len, reverse=True)))
    words = {}
    for token, number in ids.items():
        words[token] = [number]
        while (further := ids.get(f"{token}_{len(words[token])}")) is not None:
            words[token].append(further)
    return re.compile(f"({names})"), words


def encoded(caption: str, added: Added = ()) -> list[int]:
    """Token ids of a caption, without start, end and padding.

    Added tokens are found whatever their case, as by transformers; one that has further vectors, named with
    _1, _2, ..., stands for all of them, as in diffusers' pipelines.
    """
    tokenizer = clip_tokenizer()
    if not added:
        return list(tokenizer.encode(caption))
    pattern, words = _splitter(added)
    found: list[int] = []
    for part in pattern.split(caption.lower()):
        found += words[part] if part in words else tokenizer.encode(part)
    return found


@lru_cache(maxsize=65_536)
def _ids(caption: str, length: int, pad: int, added: Added) -> Tensor:
    tokenizer = clip_tokenizer()
    kept = encoded(caption, added)[: length - 2]
    ids = [tokenizer.sot_token_id, *kept, tokenizer.eot_token_id]
    return torch.tensor(ids + [pad] * (length - len(ids)), device="cpu")


def tokenize(captions: list[str], length: int, pad: int, added: Added = ()) -> Int[Tensor, "b l"]:
    """Token ids of captions, start and end marked, cut or padded to a length.

    Args:
        captions: b captions.
        length: l, at least 2.
        pad: id of the padding: 0 (open_clip, SD 2.x) or `END_OF_TEXT` (SD 1.x).
        added: tokens besides CLIP's.
    """
    return torch.stack([_ids(caption, length, pad, added) for caption in captions])


def cut_off(caption: str, length: int) -> str:
    """The end of a caption for which `length` tokens, start and end included, leave no room."""
    tokenizer = clip_tokenizer()
    text: str = tokenizer.decode(tokenizer.encode(caption)[length - 2 :])
    return text.strip()


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's tokens with their ids, under the names of transformers, and the merges that make them."""
    tokenizer = clip_tokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return {names.get(token, token): i for token, i in tokenizer.encoder.items()}, list(tokenizer.bpe_ranks)
