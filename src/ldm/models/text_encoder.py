"""Text encoders: captions -> Conditioning (tokens, pooled)."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ldm.diffusion.conditioning import Conditioning
from ldm.models.attention import TransformerBlock
from ldm.models.tokenizer import CLIP_VOCABULARY, clip_tokenizer, cut_off, tokenize
from ldm.utils.errors import UserError


class BaseTextEncoder(nn.Module):
    """Defaults for all members of `ldm.models.protocols.TextEncoder` but `encode`."""

    context_dim: int | None = None
    pooled_dim: int | None = None
    trainable: bool = False
    max_length: int | None = None
    supports: frozenset[str] = frozenset()

    def learn_vocabulary(self, captions: Callable[[], list[str]]) -> None:
        """Nothing: the encoder has no vocabulary of its own."""

    def unknown_words(self, captions: list[str]) -> list[str]:
        """No word is unknown."""
        return []

    def cut_off(self, caption: str) -> str:
        """End of a caption beyond `max_length` of CLIP's tokens."""
        return "" if self.max_length is None else cut_off(caption, self.max_length)


class NullTextEncoder(BaseTextEncoder):
    """No condition: an unconditional model."""

    def encode(self, captions: list[str]) -> Conditioning:
        """Returns an empty Conditioning."""
        return Conditioning()


class ClassEncoder(BaseTextEncoder):
    """One learned vector per known caption, added to the time embedding; any other caption is "no class".

    Args:
        captions: the known captions, for instance "a photo of a cat".
        width: channels of the pooled vector.
    """

    trainable = True

    def __init__(self, captions: list[str], width: int) -> None:
        super().__init__()
        self.index = {caption: i + 1 for i, caption in enumerate(captions)}
        self.pooled_dim = width
        self.embedding = nn.Embedding(len(captions) + 1, width)

    def unknown_words(self, captions: list[str]) -> list[str]:
        """The captions that are no class, each once."""
        return sorted({caption for caption in captions if caption and caption not in self.index})

    def encode(self, captions: list[str]) -> Conditioning:
        """Returns the pooled class vectors, (b, width)."""
        index = torch.tensor([self.index.get(c, 0) for c in captions], device=self.embedding.weight.device)
        return Conditioning(pooled=self.embedding(index))


class TinyTextEncoder(BaseTextEncoder):
    """Small bidirectional transformer over CLIP's tokens, trained jointly with the backbone.

    Args:
        width: channels of tokens and pooled vector.
        layers: transformer layers.
        num_heads: attention heads.
        max_length: tokens per caption, start and end included; longer captions are cut.
        token_dim: width of the token table, projected to `width`.
        vocabulary_size: rows of the token table, for the tokens of training captions (`learn_vocabulary`);
            others say nothing. None has a row for each of CLIP's 49,408 tokens.
    """

    trainable = True
    max_length: int
    vocabulary: Tensor

    def __init__(
        self,
        width: int,
        layers: int,
        num_heads: int,
        max_length: int = 77,
        token_dim: int = 32,
        vocabulary_size: int | None = None,
    ) -> None:
        super().__init__()
        self.context_dim = self.pooled_dim = width
        self.max_length, self.vocabulary_size = max_length, vocabulary_size
        self.token = nn.Embedding(vocabulary_size or CLIP_VOCABULARY, token_dim)
        if vocabulary_size is not None:
            # sorted ids; places that are left over hold an id that no token has
            self.register_buffer("vocabulary", torch.full((vocabulary_size,), CLIP_VOCABULARY))
        self.project = nn.Linear(token_dim, width)
        self.position = nn.Parameter(nn.init.normal_(torch.empty(max_length, width), std=0.02))
        self.layers = nn.ModuleList(
            TransformerBlock(width, num_heads, context_dim=None) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def learn_vocabulary(self, captions: Callable[[], list[str]]) -> None:
        """Gives each token of the captions a row of the table.

        Raises: ValueError if there are more tokens than rows.
        """
        if self.vocabulary_size is None:
            return
        found = tokenize(["", *set(captions())], self.max_length, pad=0).unique()
        if len(found) > self.vocabulary_size:
            raise UserError(
                f"vocabulary_size must be at least {len(found)} for the tokens of these captions, got "
                f"{self.vocabulary_size}; null has room for all"
            )
        self.vocabulary.fill_(CLIP_VOCABULARY)
        self.vocabulary[: len(found)] = found

    def unknown_words(self, captions: list[str]) -> list[str]:
        """The tokens of the captions that are not in the vocabulary, each once."""
        if self.vocabulary_size is None:
            return []
        ids = self.tokenize(captions)
        missing = ids[~torch.isin(ids, self.vocabulary)].unique().tolist()
        return [clip_tokenizer().decode([token]).strip() for token in missing]

    def tokenize(self, captions: list[str]) -> Int[Tensor, "b l"]:
        """CLIP's token ids of the captions, start and end marked, padded with 0."""
        return tokenize(captions, self.max_length, pad=0).to(self.token.weight.device)

    def embed(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l e"]:
        """Rows of the token table; zeros for a token that is not in the vocabulary."""
        if self.vocabulary_size is None:
            return self.token(ids)
        row = torch.searchsorted(self.vocabulary, ids).clamp(max=self.vocabulary_size - 1)
        known = (self.vocabulary[row] == ids)[:, :, None]
        return self.token(row) * known

    def encode(self, captions: list[str]) -> Conditioning:
        """Returns all tokens and, as pooled vector, their mean over the caption without padding."""
        ids = self.tokenize(captions)
        h = self.project(self.embed(ids)) + self.position
        for layer in self.layers:
            h = layer(h)
        h = self.norm(h)
        mask = (ids != 0).to(h.dtype)[:, :, None]
        return Conditioning(tokens=h, pooled=(h * mask).sum(1) / mask.sum(1))
