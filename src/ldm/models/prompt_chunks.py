"""Prompts of any length, divided into chunks that a text encoder reads one by one.

The rule is that of AUTOMATIC1111's web UI: chunks of 75 tokens, each with a start and an end of its own.
Where a chunk is full and a comma is among its last 20 tokens, the text behind the comma goes to the next one.
The hidden states of the chunks stand one behind the other.
"""

from collections.abc import Iterable
from typing import NamedTuple

from ldm.models.tokenizer import COMMA

BACKTRACK = 20  # tokens


class Unit(NamedTuple):
    """Token ids that stay in one chunk, with their weight.

    Attributes:
        ids: none end the chunk.
        weight: of each of them.
    """

    ids: tuple[int, ...]
    weight: float = 1.0


Chunk = list[tuple[int, float]]
"""Token ids with their weights, without start, end and padding."""


def chunks(units: Iterable[Unit], length: int) -> list[Chunk]:
    """The chunks of a prompt, at least one, of at most `length` tokens.

    Args:
        units: of the prompt.
        length: tokens of a chunk, start and end not counted.
    """
    done: list[Chunk] = []
    chunk: Chunk = []
    comma: int | None = None  # place of the last one in the chunk
    for ids, weight in units:
        if not ids:
            done.append(chunk)
            chunk, comma = [], None
            continue
        if ids == (COMMA,):
            comma = len(chunk)
        elif len(chunk) == length and comma is not None and len(chunk) - comma <= BACKTRACK:
            done.append(chunk[: comma + 1])
            chunk, comma = chunk[comma + 1 :], None
        if len(chunk) + len(ids) > length:
            done.append(chunk)
            chunk, comma = [], None
        chunk = [*chunk, *((token, weight) for token in ids)]
    return [*done, chunk] if chunk or not done else done


def cut(units: Iterable[Unit], length: int) -> Chunk:
    """The first `length` tokens of a prompt."""
    return [(token, weight) for ids, weight in units for token in ids][:length]
