"""Conditioning of a denoising net, as one value that guidance can concatenate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ldm.utils.errors import UserError


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Conditioning of b images; a new kind of conditioning is a new field, None where it is not used.

    Args:
        tokens: (b, l, d), attended to by cross-attention.
        pooled: (b, p), added to the time embedding.
        concat: (b, k, h, w), further channels behind those of x_t, such as an inpainting net's mask.
        identity_attention: (b,), rows whose self-attention in the net's middle is the identity.
        lengths: (b,), tokens of each row, where rows have different numbers; the others are padding, which a
            net must not see (`by_length`).
        guidance: (b,), the guidance scale that a distilled net is evaluated for.
    """

    tokens: Float[Tensor, "b l d"] | None = None
    pooled: Float[Tensor, "b p"] | None = None
    concat: Float[Tensor, "b k h w"] | None = None
    identity_attention: Bool[Tensor, " b"] | None = None
    lengths: Int[Tensor, " b"] | None = None
    guidance: Float[Tensor, " b"] | None = None

    def _items(self) -> Iterator[tuple[str, Tensor | None]]:
        return ((f.name, getattr(self, f.name)) for f in fields(self))

    @property
    def is_empty(self) -> bool:
        """True if neither tokens nor a pooled embedding are given: the model is unconditional."""
        return self.tokens is None and self.pooled is None

    def cat(self, other: "Conditioning") -> "Conditioning":
        """This batch followed by the other, field by field; different numbers of tokens become `lengths`.

        Raises:
            ValueError: if a field is set in one of the two only.
        """
        joined: dict[str, Tensor] = {}
        first, second = _equally_long(self, other)
        for (name, mine), (_, theirs) in zip(first._items(), second._items(), strict=True):
            if (mine is None) != (theirs is None):
                raise UserError(f"{name} is set in one conditioning and missing in the other: both need it")
            if mine is not None and theirs is not None:
                joined[name] = torch.cat([mine, theirs])
        return Conditioning(**joined)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Conditioning":
        """The same values on a device, in a dtype."""
        return Conditioning(
            **{
                k: v.to(device=device, dtype=dtype if v.is_floating_point() else None)
                for k, v in self._items()
                if v is not None
            }
        )

    def by_length(self) -> list[tuple[Tensor, "Conditioning"]]:
        """Rows with equal numbers of tokens, without padding: places in the batch, conditioning."""
        if self.lengths is None or self.tokens is None:
            raise UserError("rows have lengths only where there are tokens of different numbers")
        found = []
        for length in self.lengths.unique().tolist():
            places = (self.lengths == length).nonzero().flatten()
            rows = {name: value[places] for name, value in self._items() if value is not None}
            cond = Conditioning(**{name: value for name, value in rows.items() if name != "lengths"})
            found.append((places, replace(cond, tokens=rows["tokens"][:, :length])))
        return found


def stacked(rows: Sequence[Float[Tensor, "_ d"]]) -> Conditioning:
    """Conditioning by the tokens of each row; different numbers of them become `lengths`."""
    lengths = [len(row) for row in rows]
    if len(set(lengths)) == 1:
        return Conditioning(tokens=torch.stack(list(rows)))
    tokens = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return Conditioning(tokens=tokens, lengths=torch.tensor(lengths, device=tokens.device))


def _equally_long(first: Conditioning, second: Conditioning) -> tuple[Conditioning, Conditioning]:
    """Two batches with as many tokens, padded with zeros where they had fewer."""
    a, b = first.tokens, second.tokens
    if a is None or b is None or (a.shape[1] == b.shape[1] and first.lengths is second.lengths is None):
        return first, second
    longest = max(a.shape[1], b.shape[1])
    return _padded(first, a, longest), _padded(second, b, longest)


def _padded(cond: Conditioning, tokens: Tensor, longest: int) -> Conditioning:
    lengths = cond.lengths
    if lengths is None:
        lengths = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
    padding = tokens.new_zeros(len(tokens), longest - tokens.shape[1], tokens.shape[2])
    return replace(cond, tokens=torch.cat([tokens, padding], dim=1), lengths=lengths)
