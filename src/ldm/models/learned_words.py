"""Words with token vectors of their own: textual inversion (Gal et al. 2022, arXiv:2208.01618)."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ldm.utils.errors import UserError


class LearnedWords:
    """Words and their vectors; the ids of the vectors follow those of a table of tokens.

    Args:
        rows: of the table.
        width: of its vectors.
        longest: vectors that a word may have.
    """

    def __init__(self, rows: int, width: int, longest: int) -> None:
        self.rows, self.width, self.longest = rows, width, longest
        self.vectors: dict[str, Tensor] = {}

    def add(self, word: str, vectors: Float[Tensor, "n d"], source: str = "") -> None:
        """Makes a word known.

        Args:
            word: that prompts contain.
            vectors: n of the table's width, one behind the other in the prompt.
            source: where they are from, for messages.

        Raises: ValueError for a word that is known or has white space at its ends, or for vectors of another
            width, too many or not finite.
        """
        where = f"{source}: " if source else ""
        if not word or word != word.strip():
            raise UserError(f"{where}a learned word must have no white space at its ends, got {word!r}")
        if word.lower() in (known.lower() for known in self.vectors):
            raise UserError(f"{where}the word {word!r} is there already: choose another, or unload it")
        if vectors.dim() != 2 or vectors.shape[1] != self.width:
            raise UserError(
                f"{where}the vectors of {word!r} must be {self.width} wide, as those of this text encoder, "
                f"got {tuple(vectors.shape)}"
            )
        if not 1 <= len(vectors) <= self.longest:
            raise UserError(f"{where}{word!r} must have 1 to {self.longest} vectors, got {len(vectors)}")
        if not bool(vectors.isfinite().all()):
            raise UserError(f"{where}the vectors of {word!r} hold NaN or infinite values")
        self.vectors[word] = vectors.detach().to("cpu", torch.float32, copy=True)

    def remove(self, words: Iterable[str] | None = None) -> None:
        """Forgets words, all of them if none are given.

        Raises: ValueError for a word that is not known.
        """
        for word in list(self.vectors) if words is None else words:
            if word not in self.vectors:
                raise UserError(f"{word!r} must be one of the learned words {list(self.vectors)}")
            del self.vectors[word]

    @property
    def ids(self) -> dict[str, tuple[int, ...]]:
        """The ids of each word."""
        found, first = {}, self.rows
        for word, vectors in self.vectors.items():
            found[word] = tuple(range(first, first + len(vectors)))
            first += len(vectors)
        return found

    def embed(self, table: nn.Embedding, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Rows of a table, and the vectors of words."""
        if not self.vectors or int(ids.max()) < self.rows:
            return table(ids)
        h = table(ids.clamp(max=self.rows - 1))
        own = torch.cat(list(self.vectors.values())).to(h)
        learned = ids >= self.rows
        return torch.where(learned[..., None], own[(ids - self.rows).clamp(min=0)], h)
