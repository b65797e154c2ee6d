"""Combinations never trained on: emoji on backgrounds on which training does not show them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ldm.evaluation.ranks import ranks
from ldm.evaluation.score import Headline, ImageSampler, Picture, Score
from ldm.evaluation.spread import spread
from ldm.utils.errors import UserError
from ldm.utils.image_io import make_grid, save_png, to_uint8


@runtime_checkable
class PairData(Protocol):
    """Pairs of an emoji and a background that are held out of training."""

    names: list[str]
    opacity: Tensor
    colours: Tensor

    def held_out_pair_list(self) -> list[tuple[int, int]]:
        """(emoji, background) of the pairs; background 0 is white."""
        ...

    def caption(self, key: int, colour: int) -> str:
        """Caption of an emoji on a background."""
        ...

    def render(self, key: Int64[Tensor, " b"], colour: Int64[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
        """Images of emoji on backgrounds."""
        ...


@dataclass(frozen=True, kw_only=True)
class HeldOutPairs:
    """Shares of held-out pairs whose background, and whose emoji, is drawn.

    The background is judged by the mean colour of the image's four corners (emoji that reach into one are
    left out), the emoji by the nearest of all emoji on the prompted background.

    Args:
        limit: pairs that are scored, evenly spread; None for all.
        seed: of the noise.
    """

    limit: int | None = None
    seed: int = 0
    requires: ClassVar[type] = PairData

    def __call__(self, sampler: ImageSampler, data: PairData, folder: Path) -> Score:
        """Both fractions, and samples/held_out_pairs.png.

        Raises: ValueError if the data hold out no pairs.
        """
        open_corners = corners(data.opacity).amax((1, 2)) == 0
        pairs = spread([pair for pair in data.held_out_pair_list() if open_corners[pair[0]]], self.limit)
        if not pairs:
            raise UserError("the data hold out no pairs (held_out_pairs=0)")
        images = sampler.images([data.caption(key, colour) for key, colour in pairs], self.seed)
        file = "samples/held_out_pairs.png"
        save_png(make_grid(images[:64], columns=16), folder / file)
        keys, colours = torch.tensor(pairs).T
        background = torch.cdist(corners(images).float().mean(1), data.colours).argmin(1) == colours
        values = {
            "n": len(pairs),
            "background": round(background.float().mean().item(), 4),
            "emoji": round(right_emoji(images, data, keys, colours).float().mean().item(), 4),
        }
        return Score(
            title="Pairs held out of training",
            values=values,
            headlines=[
                Headline(label=f"held-out pairs: {name}", value=values[name], format="{:.1%}")
                for name in ("background", "emoji")
            ],
            pictures=[Picture(file=file, caption="emoji on backgrounds on which training never showed them")],
        )


def right_emoji(images: Tensor, data: PairData, keys: Tensor, colours: Tensor) -> Tensor:
    """True for each image that is nearer to its emoji than to all others on the same background, (n,)."""
    result = torch.zeros(len(images), dtype=torch.bool)
    everything = torch.arange(len(data.names))
    for colour in colours.unique():
        chosen = colours == colour
        references = to_uint8(data.render(everything, colour.expand(len(everything))))
        result[chosen] = ranks(images[chosen], references, keys[chosen]).rank == 0
    return result


def corners(images: Tensor) -> Tensor:
    """The pixels one step inside the four corners, (n, 4, c)."""
    return torch.stack([images[:, :, y, x] for y in (1, -2) for x in (1, -2)], dim=1)
