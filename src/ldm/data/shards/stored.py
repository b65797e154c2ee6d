"""Samples of a data set in the form in which shards store them."""

from collections.abc import Iterator
from typing import Any

from PIL import Image

from ldm.data.imagefolder import ImageFolderData
from ldm.data.shards.writer import Sample, encoded, of_file


def stored_samples(data: Any) -> Iterator[Sample]:
    """The samples of a data set as they go into shards.

    Args:
        data: an `ImageFolderData`, whose files are stored as they are where shards hold such, or a data set
            in memory, whose pixels are encoded without loss.
    """
    if isinstance(data, ImageFolderData):
        for path, caption in data.captioned():
            yield of_file(path, caption)
        return
    images, captions = data.read()
    for pixels, caption in zip(images, captions, strict=True):
        yield encoded(Image.fromarray(pixels.movedim(0, -1).numpy()), caption)
