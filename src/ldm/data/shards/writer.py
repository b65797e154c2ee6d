"""Tar shards out of other data: the one format that training at scale reads."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ldm.utils.errors import UserError
from ldm.utils.files import replacing_folder
from ldm.utils.image_files import head_of, read_image
from ldm.utils.image_modes import UNREADABLE

STORED = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Format of PIL -> extension in a shard, of the formats that shards hold."""


class Sample(NamedTuple):
    """One image as it goes into a shard: encoded, with its extension, caption and what is known besides."""

    image: bytes
    extension: str
    caption: str
    said: dict[str, Any]


def write_shards(samples: Iterator[Sample], folder: Path, per_shard: int = 1000) -> int:
    """Writes samples as `00000.tar`, `00001.tar`, .. into a new folder, which appears whole or not at all.

    Args:
        samples: in this order.
        folder: it must not exist, or be empty.
        per_shard: samples in a shard.

    Returns: the number of samples.
    Raises: FileExistsError; ValueError if there is no sample.
    """
    from webdataset import ShardWriter

    if per_shard < 1:
        raise UserError(f"per_shard must be at least 1, got {per_shard}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing_folder(folder) as new:
        with ShardWriter(
            str(new / "%05d.tar"), maxcount=per_shard, maxsize=float("inf"), verbose=0
        ) as writer:
            for count, sample in enumerate(samples, 1):
                said = json.dumps(sample.said)
                parts = {sample.extension: sample.image, "txt": sample.caption, "json": said.encode()}
                writer.write({"__key__": f"{count - 1:09d}", **parts})
        if count == 0:
            raise UserError("there is no sample to write")
    return count


def encoded(image: Image.Image, caption: str, said: Mapping[str, Any] | None = None) -> Sample:
    """A sample of a decoded image, as PNG.

    Args:
        image: RGB.
        caption: of the image.
        said: what is known besides.
    """
    out = io.BytesIO()
    image.save(out, "PNG")
    size = {"width": image.width, "height": image.height}
    return Sample(out.getvalue(), "png", caption, size | dict(said or {}))


def of_bytes(data: bytes, caption: str, said: Mapping[str, Any] | None = None) -> Sample:
    """A sample of the bytes of an image file: as they are, or as PNG if shards hold no such files.

    Args:
        data: of a file that can be decoded.
        caption: of the image.
        said: what is known besides.

    Raises: one of `UNREADABLE` if it is no image.
    """
    kind, (height, width) = head_of(data)
    if kind not in STORED:
        return encoded(read_image(data)[0], caption, said)
    return Sample(data, STORED[kind], caption, {"width": width, "height": height} | dict(said or {}))


def of_file(path: Path, caption: str) -> Sample:
    """A sample of an image file.

    Raises: ValueError if it is no image.
    """
    try:
        return of_bytes(path.read_bytes(), caption, {"name": path.name})
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as an image: {error}") from error
