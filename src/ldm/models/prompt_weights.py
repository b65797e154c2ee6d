r"""Weights in prompts, by the rules of AUTOMATIC1111's web UI: (word), [word], (word:1.2), \(.

    (word)      1.1 times the weight, ((word)) 1.21 times
    [word]      1 / 1.1 times the weight
    (word:1.2)  1.2 times the weight
    \( \) \[ \] the brackets themselves, and \\ the backslash
    BREAK       ends the chunk of tokens

A bracket that is not closed reaches to the end of the prompt; one that was not opened is text.
"""

import math
import re
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ldm.utils.errors import UserError

ROUND, SQUARE = 1.1, 1 / 1.1
TOKEN = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:")
BREAK = re.compile(r"\s*\bBREAK\b\s*")


class Weighted(NamedTuple):
    """A part of a prompt.

    Attributes:
        text: of the part; None ends a chunk of tokens.
        weight: of its tokens.
    """

    text: str | None
    weight: float = 1.0


def weighted(prompt: str) -> list[Weighted]:
    """The parts of a prompt with their weights; neighbours have different ones.

    Raises: ValueError for a weight that is no number, such as 1.2.3.
    """
    parts: list[Weighted] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # parts before each bracket that is open

    def close(bracket: str, factor: float) -> None:
        first = opened[bracket].pop()
        parts[first:] = [Weighted(part.text, part.weight * factor) for part in parts[first:]]

    for match in TOKEN.finditer(prompt):
        token, weight = match[0], match[1]
        if token[0] == "\\" and len(token) > 1:
            parts.append(Weighted(token[1:]))
        elif token in opened:
            opened[token].append(len(parts))
        elif weight is not None and opened["("]:
            close("(", _number(weight, prompt))
        elif token == ")" and opened["("]:
            close("(", ROUND)
        elif token == "]" and opened["["]:
            close("[", SQUARE)
        else:
            parts += _with_breaks("" if token == "\\" else token)
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        while opened[bracket]:
            close(bracket, factor)
    return _joined(parts)


def _number(text: str, prompt: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"a weight in a prompt must be a number, got {text} in {prompt!r}")
    return number


def _with_breaks(text: str) -> list[Weighted]:
    """A text, divided at the word BREAK."""
    pieces = BREAK.split(text)
    parts = [Weighted(pieces[0])]
    for piece in pieces[1:]:
        parts += [Weighted(None), Weighted(piece)]
    return parts


def _joined(parts: list[Weighted]) -> list[Weighted]:
    """The same with equal neighbours joined, which are divided into tokens as one text."""
    found: list[Weighted] = []
    for text, weight in parts:
        last = found[-1] if found else None
        if text is None or last is None or last.text is None or last.weight != weight:
            found.append(Weighted(text, weight))
        else:
            found[-1] = Weighted(last.text + text, weight)
    return found or [Weighted("")]


def has_weights(prompt: str) -> bool:
    """True if a prompt is read otherwise than as its text."""
    parts = weighted(prompt)
    return any(part.text is None or part.weight != 1.0 for part in parts) or plain(prompt) != prompt


def plain(prompt: str) -> str:
    """The text of a prompt without brackets and weights."""
    return "".join(" BREAK " if part.text is None else part.text for part in weighted(prompt))


def emphasised(h: Float[Tensor, "l d"], weights: Float[Tensor, " l"]) -> Float[Tensor, "l d"]:
    """Hidden states times the weights of their tokens, scaled so that the mean of all is as it was before.

    z -> w z mean(z) / mean(w z), as the web UI does by default ("Original").

    Args:
        h: hidden states of the tokens of one chunk, z.
        weights: w, on the CPU.

    Raises: ValueError if the weighted states have no mean to divide by.
    """
    if bool((weights == 1.0).all()):
        return h
    before = h.float()
    after = before * weights.to(h.device)[:, None]
    if float(after.mean()) == 0.0:
        raise UserError("the weights of a prompt must leave a mean to restore; weights of 0 for all do not")
    return (after * (before.mean() / after.mean())).to(h.dtype)
