"""Filters over the columns of a shard index, evaluated before training."""

from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Bounds on the metadata of samples; None for no bound.

    Args:
        min_size: of the smaller side, in pixels.
        max_aspect: of the longer side over the shorter.
        min_aesthetic: predicted aesthetic score.
        max_watermark: probability of a watermark.
        max_unsafe: probability of not being safe for work.
        min_similarity: of image and caption by CLIP.
        nsfw: allowed tags, such as [UNLIKELY].
        language: allowed languages, such as [en].
        keep_unknown: True to keep samples whose json lacks a bounded field.
    """

    min_size: int | None = None
    max_aspect: float | None = None
    min_aesthetic: float | None = None
    max_watermark: float | None = None
    max_unsafe: float | None = None
    min_similarity: float | None = None
    nsfw: list[str] | None = None
    language: list[str] | None = None
    keep_unknown: bool = True

    def __call__(self, samples: np.ndarray) -> Bool[np.ndarray, " n"]:
        """Mask of the samples that pass all bounds.

        Args:
            samples: rows of `ldm.data.shards.index.SAMPLE`.
        """
        kept = np.ones(len(samples), dtype=bool)
        for value, least, most in (
            (_small, self.min_size, None),
            (_aspect, None, self.max_aspect),
            (itemgetter("aesthetic"), self.min_aesthetic, None),
            (itemgetter("watermark"), None, self.max_watermark),
            (itemgetter("unsafe"), None, self.max_unsafe),
            (itemgetter("similarity"), self.min_similarity, None),
        ):
            if least is None and most is None:  # the table is large: only columns that are asked for are read
                continue
            found = value(samples)
            inside = found >= least if least is not None else found <= most
            kept &= inside | (np.isnan(found) & self.keep_unknown)
        for name, allowed in (("nsfw", self.nsfw), ("language", self.language)):
            if allowed is not None:
                known = [word.encode()[:12] for word in allowed] + ([b""] if self.keep_unknown else [])
                kept &= np.isin(samples[name], np.array(known, dtype="S12"))
        return kept


def _small(samples: np.ndarray) -> np.ndarray:
    """The smaller side."""
    return np.minimum(samples["width"], samples["height"])


def _aspect(samples: np.ndarray) -> np.ndarray:
    """The longer side over the smaller."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.maximum(samples["width"], samples["height"]) / _small(samples)
