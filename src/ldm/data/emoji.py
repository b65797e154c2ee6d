"""Emoji as captioned images: Noto Color Emoji with the names of Unicode CLDR, on white or named colours."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from ldm.data.batch import MemoryData, Samples, check_fraction
from ldm.data.shards.in_memory import decode_image, read_shards
from ldm.diffusion import random
from ldm.utils.errors import UserError

ASSETS = Path(str(resources.files("ldm.data") / "assets"))


@dataclass(frozen=True)
class Emoji:
    """All emoji: premultiplied colour (n, 3, 64, 64), opacity (n, 1, 64, 64), uint8, names and keywords."""

    colour: Tensor
    opacity: Tensor
    names: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]


@lru_cache(maxsize=1)
def load_emoji() -> Emoji:
    """Decodes the embedded shards, once per process."""
    images, names, keywords = [], [], []
    for sample in read_shards(sorted(ASSETS.glob("emoji-*.tar"))):
        images.append(decode_image(sample["png"], "RGBA", sample["__key__"].decode()))
        names.append(sample["txt"].decode())
        keywords.append(tuple(json.loads(sample["json"])["keywords"]))
    pixels = torch.from_numpy(np.stack(images)).movedim(-1, 1).contiguous()  # (n, 4, 64, 64)
    opacity = pixels[:, 3:]
    colour = (pixels[:, :3].float() * opacity.float() / 255.0).round().byte()
    return Emoji(colour, opacity, tuple(names), tuple(keywords))


def read_names(name: str) -> list[str]:
    """The lines of a list among the assets, for instance "demo"; '#' starts a comment."""
    path = ASSETS / f"{name}.txt"
    if not path.is_file():
        options = sorted(p.stem for p in ASSETS.glob("*.txt"))
        raise UserError(f"subset must be null or one of {options}, got {name!r}")
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def compose(
    colour: UInt8[Tensor, "b 3 h w"], opacity: UInt8[Tensor, "b 1 h w"], background: Float[Tensor, "b 3"]
) -> Float[Tensor, "b 3 h w"]:
    """Images in [-1, 1] over a background colour in 0..255."""
    rest = 1.0 - opacity.float() / 255.0
    return (colour.float() + rest * background[:, :, None, None]).mul_(2.0 / 255.0).sub_(1.0)


class EmojiData(MemoryData):
    """Emoji with their names as captions; with a background colour "{name} on a {colour} background".

    Args:
        batch_size: global batch size.
        image_size: 64, 32 or 16.
        subset: name of a list of emoji among the assets; null for all.
        hold_out: captions never trained on.
        backgrounds: named background colours, RGB 0..255.
        background_probability: how often an emoji is shown on a colour rather than on white.
        held_out_pairs: fraction of the (emoji, background) pairs that are never trained on.
        validation_fraction: fraction of the emoji that are never trained on, for an autoencoder's score.
        seed: of order, backgrounds and splits.
        num_workers: loader processes.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        image_size: int = 64,
        subset: str | None = None,
        hold_out: Sequence[str] = (),
        backgrounds: Mapping[str, Sequence[int]] | None = None,
        background_probability: float = 0.0,
        held_out_pairs: float = 0.0,
        validation_fraction: float = 0.0,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, image_size=image_size, seed=seed, num_workers=num_workers)
        if image_size not in (16, 32, 64):
            raise ValueError(f"image_size must be 16, 32 or 64, got {image_size}")
        emoji, f = load_emoji(), 64 // image_size
        self.names = list(emoji.names)
        self.colour, self.opacity = (
            x if f == 1 else F.avg_pool2d(x.float(), f).round().byte() for x in (emoji.colour, emoji.opacity)
        )
        for name, rgb in (backgrounds or {}).items():
            if len(rgb) != 3 or not all(0 <= value <= 255 for value in rgb):
                raise ValueError(
                    f"backgrounds must be [red, green, blue] in 0..255, got {list(rgb)} for {name}"
                )
        self.background_names = list(backgrounds or {})
        if background_probability > 0 and not self.background_names:
            raise ValueError(f"background_probability={background_probability} needs backgrounds, got none")
        self.colours = torch.tensor([(255, 255, 255), *(backgrounds or {}).values()], dtype=torch.float32)
        self.background_probability = check_fraction("background_probability", background_probability)
        self.held_out_pairs = check_fraction("held_out_pairs", held_out_pairs)
        check_fraction("validation_fraction", validation_fraction)
        self._keys = self._training_keys(subset, set(hold_out), validation_fraction)

    def _training_keys(self, subset: str | None, hold_out: set[str], validation_fraction: float) -> Tensor:
        index = {name: i for i, name in enumerate(self.names)}
        wanted = self.names if subset is None else read_names(subset)
        if unknown := sorted((set(wanted) | hold_out) - index.keys()):
            raise UserError(f"no emoji is called {unknown[0]!r}")
        keys = torch.tensor([index[name] for name in wanted if name not in hold_out], dtype=torch.int64)
        self._validation = torch.tensor([], dtype=torch.int64)
        if validation_fraction:
            chosen = random.uniform(self.seed, "validation", keys, 0) < validation_fraction
            self._validation, keys = keys[chosen], keys[~chosen]
        if len(keys) == 0:
            raise UserError(
                f"subset={subset}, hold_out and validation_fraction={validation_fraction} leave no emoji to "
                "train on"
            )
        return keys

    def training_keys(self) -> Int64[Tensor, " n"]:
        """Keys of the emoji trained on: their places in the embedded data."""
        return self._keys

    def is_held_out(self, key: Int64[Tensor, " b"], colour: Int64[Tensor, " b"]) -> Tensor:
        """True for (emoji, background) pairs that are never trained on; never those on colour 0, white."""
        u = random.uniform(self.seed, "held_out_pairs", key * 1000 + colour, 0)
        return (u < self.held_out_pairs) & (colour > 0)

    def caption(self, key: int, colour: int) -> str:
        """Caption of an emoji on a background; colour 0 is white."""
        name = self.names[key]
        return name if colour == 0 else f"{name} on a {self.background_names[colour - 1]} background"

    def captions(self) -> list[str]:
        """The emoji trained on, on white, and one of them on each background."""
        keys = self._keys.tolist()
        backgrounds = [self.caption(keys[0], colour + 1) for colour in range(len(self.background_names))]
        return [self.names[key] for key in keys] + backgrounds

    def background(self, key: Int64[Tensor, " b"], visit: int) -> Int64[Tensor, " b"]:
        """Index of the background at a visit: 0 white, 1.. the colours; a held-out pair becomes white."""
        if self.background_probability == 0:
            return torch.zeros_like(key)
        shown = random.uniform(self.seed, "background", key, visit) < self.background_probability
        colour = random.randint(self.seed, "colour", key, visit, len(self.background_names)) + 1
        return torch.where(shown & ~self.is_held_out(key, colour), colour, 0)

    def get(self, key: Int64[Tensor, " b"], visit: int) -> Samples:
        """The emoji with their backgrounds of this visit."""
        colour = self.background(key, visit)
        captions = [self.caption(k, c) for k, c in zip(key.tolist(), colour.tolist(), strict=True)]
        return {"image": self.render(key, colour), "caption": captions, "key": key}

    def render(self, key: Int64[Tensor, " b"], colour: Int64[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [-1, 1] of emoji on backgrounds."""
        return compose(self.colour[key], self.opacity[key], self.colours[colour])

    def validation_keys(self) -> Int64[Tensor, " n"]:
        """Keys of the samples held out; of all trained on when there are none."""
        trained = self.training_keys()
        return self._validation if len(self._validation) else trained

    def validation_images(self) -> Float[Tensor, "n 3 h w"]:
        """The emoji held out for validation (or, without any, the trained ones) on white."""
        keys = self.validation_keys()
        return self.render(keys, torch.zeros_like(keys))

    def training_captions(self) -> list[tuple[int, str]]:
        """(key, name) of the emoji trained on."""
        return [(k, self.names[k]) for k in self._keys.tolist()]

    def reference_images(self) -> UInt8[Tensor, "n 3 h w"]:
        """All embedded emoji on white."""
        keys = torch.arange(len(self.names))
        return ((self.render(keys, torch.zeros_like(keys)) + 1.0) * 127.5).round().byte()

    def reference_captions(self) -> list[str]:
        """Names of all embedded emoji."""
        return self.names

    def held_out_pair_list(self) -> list[tuple[int, int]]:
        """All (key, colour) pairs of trained emoji that were held out."""
        keys = self._keys.repeat_interleave(len(self.background_names))
        colours = (torch.arange(len(self.background_names)) + 1).repeat(len(self._keys))
        chosen = self.is_held_out(keys, colours)
        return list(zip(keys[chosen].tolist(), colours[chosen].tolist(), strict=True))
