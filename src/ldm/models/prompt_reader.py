"""Prompts -> token ids and weights of the chunks that a CLIP text encoder reads."""

from collections.abc import Collection, Mapping
from itertools import accumulate, groupby
from typing import NamedTuple

from ldm.models.prompt_chunks import Chunk, Unit, chunks, cut
from ldm.models.prompt_weights import weighted
from ldm.models.tokenizer import END_OF_TEXT, decoded, units
from ldm.utils.errors import UserError

START = END_OF_TEXT - 1
LONG_PROMPTS = ("cut", "chunks")


class Tokens(NamedTuple):
    """The tokens of one prompt.

    Attributes:
        ids: (k, l), of its chunks, start, end and padding included.
        weights: (k, l), of the tokens.
    """

    ids: list[list[int]]
    weights: list[list[float]]


class PromptReader:
    """Divides prompts into tokens.

    Args:
        words: with ids of their own: special tokens, added tokens and learned words.
        length: tokens of a chunk, start and end included.
        pad: id of the padding.
        within: words that are found inside of others as well: added tokens.
    """

    def __init__(
        self, words: Mapping[str, tuple[int, ...]], length: int, pad: int, within: Collection[str] = ()
    ) -> None:
        self.words, self.length, self.pad, self.within = words, length, pad, within

    def units(self, prompt: str, prompt_weights: bool = False, breaks: bool = False) -> list[Unit]:
        """The tokens of a prompt.

        Args:
            prompt: the text.
            prompt_weights: read brackets as weights.
            breaks: the word BREAK ends a chunk, rather than being text.
        """
        if not prompt_weights:
            return [Unit(ids) for ids in units(prompt, self.words, self.within)]
        found: list[Unit] = []
        for text, weight in weighted(prompt):
            if text is None and breaks:
                found.append(Unit(()))
                continue
            read = units("BREAK" if text is None else text, self.words, self.within)
            found += [Unit(ids, weight) for ids in read]
        return found

    def read(self, prompt: str, prompt_weights: bool = False, long_prompts: str = "cut") -> Tokens:
        """The tokens of a prompt in chunks of equal length.

        Args:
            prompt: the text.
            prompt_weights: read brackets as weights.
            long_prompts: "cut" leaves out what one chunk has no room for; "chunks" makes as many as needed.

        Raises: ValueError for another value of `long_prompts`, or a weight that is no number.
        """
        if long_prompts not in LONG_PROMPTS:
            raise UserError(f"long_prompts must be one of {LONG_PROMPTS}, got {long_prompts!r}")
        found = self.units(prompt, prompt_weights, long_prompts == "chunks")
        room = self.length - 2
        parts: list[Chunk] = chunks(found, room) if long_prompts == "chunks" else [cut(found, room)]
        rows = []
        for part in parts:
            ends = [(END_OF_TEXT, 1.0), *[(self.pad, 1.0)] * (room - len(part))]
            rows.append([(START, 1.0), *part, *ends])
        return Tokens([[i for i, _ in row] for row in rows], [[w for _, w in row] for row in rows])

    def cut_off(self, prompt: str) -> str:
        """The end of a prompt beyond one chunk."""
        names = {ids: word for word, ids in self.words.items()}
        found = self.units(prompt)
        ends = accumulate(len(unit.ids) for unit in found)
        lost = [unit.ids for unit, end in zip(found, ends, strict=True) if end > self.length - 2]
        runs = groupby(lost, lambda ids: ids in names)
        texts = (
            " ".join(names[ids] for ids in run) if known else decoded(token for ids in run for token in ids)
            for known, run in runs
        )
        return " ".join(texts)
