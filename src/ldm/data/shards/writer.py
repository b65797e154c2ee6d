"""Tar shards out of other data: the one format that training at scale reads."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ldm.utils.errors import UserError
from ldm.utils.files import replacing_folder


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


def encoded(image: Image.Image, caption: str) -> Sample:
    """A sample of a decoded image, as PNG."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return Sample(out.getvalue(), "png", caption, {"width": image.width, "height": image.height})


def of_file(path: Path, caption: str) -> Sample:
    """A sample of an image file, its bytes as they are.

    Raises: ValueError if it is no image.
    """
    try:
        with Image.open(path) as image:
            said = {"width": image.width, "height": image.height, "name": path.name}
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read as an image: {error}") from error
    return Sample(path.read_bytes(), path.suffix.lower().lstrip("."), caption, said)
