"""Image and caption of a row of a shard index."""

import json
import time
from itertools import pairwise
from typing import Any

import numpy as np

from ldm.data.decode import BadSample, Decoded, Size, crop_of, cropped, decode
from ldm.data.shards.files import ShardFiles
from ldm.data.shards.index import PARTS
from ldm.utils.errors import UserError
from ldm.utils.text_files import caption_of


def shard_caption(data: bytes) -> str:
    """The caption in the text part of a sample.

    Raises: BadSample for another encoding than Unicode.
    """
    try:
        return caption_of(data, "caption")
    except UserError as error:
        raise BadSample("caption is no Unicode text") from error


class SampleReader:
    """Reads the parts of samples out of their shards.

    Args:
        samples: the table of a `ldm.data.shards.index.ShardIndex`.
        files: its shards.
        caption: where the caption is: "txt", or a field of the json.
        fallback: field of the json that is taken if there is none; None: the sample is bad.
        max_pixels: larger images are bad.
    """

    def __init__(
        self, samples: np.ndarray, files: ShardFiles, caption: str, fallback: str | None, max_pixels: int
    ) -> None:
        self.samples, self.files = samples, files
        self.field, self.fallback, self.max_pixels = caption, fallback, max_pixels

    def part(self, row: int, part: str) -> bytes | None:
        """The bytes of a part of a sample; None if it has no such part."""
        assert part in PARTS
        sample = self.samples[row]
        size = int(sample[f"{part}_size"])
        if size < 0:
            return None
        offset, header = int(sample[f"{part}_offset"]), int(sample[f"{part}_header"])
        return self.files.read(int(sample["shard"]), offset, size, header)

    def image(self, row: int, target: Size) -> Decoded:
        """The decoded image, large enough for a height and width.

        Raises: BadSample.
        """
        data = self.part(row, "image")
        if not data:
            raise BadSample("empty image")
        return decode(data, target, self.max_pixels)

    def caption(self, row: int) -> str:
        """The caption, or the fallback.

        Raises: BadSample.
        """
        text = None
        if self.field == "txt":
            text = shard_caption(self.part(row, "text") or b"")
        for name in (self.field if self.field != "txt" else None, self.fallback):
            if not text and name is not None:
                text = str(self._said(row).get(name) or "").strip()
        if not text:
            raise BadSample("no caption")
        return text

    def _said(self, row: int) -> dict[str, Any]:
        try:
            said = json.loads(self.part(row, "json") or b"{}")
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    def profile(self, rows: list[int], target: Size) -> dict[str, float]:
        """Seconds spent on reading, decoding and cropping the images of rows.

        Args:
            rows: of the index.
            target: height and width.
        """
        spent = {"reading": 0.0, "decoding": 0.0, "cropping": 0.0}
        for row in rows:
            times = [time.perf_counter()]
            data = self.part(row, "image") or b""
            times.append(time.perf_counter())
            try:
                decoded = decode(data, target, self.max_pixels)
            except BadSample:
                continue
            times.append(time.perf_counter())
            cropped(decoded, crop_of(decoded.size, target, (0.5, 0.5)), target)
            times.append(time.perf_counter())
            for name, (start, end) in zip(spent, pairwise(times), strict=True):
                spent[name] += end - start
        return spent
