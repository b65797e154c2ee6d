"""Reading small tar shards (webdataset layout) whole into memory."""

import io
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ldm.utils.errors import UserError
from ldm.utils.folders import is_clutter
from ldm.utils.image_files import read_image
from ldm.utils.image_modes import UNREADABLE


def read_shards(paths: Sequence[Path]) -> Iterator[dict[str, bytes]]:
    """Samples of tar shards: consecutive files that share folder and name before the first dot, by extension.

    As in webdataset, "__key__" says where a sample comes from: "{path}:{name}".

    Args:
        paths: tar files, plain or gzipped.

    Raises:
        FileNotFoundError: if there is none, or one is missing.
        ValueError: if one is damaged or cut short.
    """
    if not paths:
        raise FileNotFoundError("no tar shards found")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no tar shard at {path}")
        try:
            yield from _samples(path)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise UserError(f"{path}: damaged tar shard: {error}") from error


def decode_image(data: bytes, mode: str, where: str) -> UInt8[np.ndarray, "h w c"]:
    """Pixels of an encoded image.

    Args:
        data: PNG, JPEG, ...
        mode: "RGB", as `ldm.utils.image_files.read_image` reads it, or "RGBA", with its opacity.
        where: the image's name, for the error message.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        if mode == "RGB":
            return np.asarray(read_image(data)[0])
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert(mode))
    except UNREADABLE as error:
        raise UserError(f"{where}: damaged image: {error}") from error


def _samples(path: Path) -> Iterator[dict[str, bytes]]:
    sample: dict[str, bytes] = {}
    name = None
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with tarfile.open(path, "r:gz" if packed else "r:") as tar:
        for member in tar:
            if not member.isfile() or is_clutter(member.name):
                continue
            folder, _, base = member.name.rpartition("/")
            first, _, extension = base.partition(".")
            stem = f"{folder}/{first}" if folder else first
            if stem != name:
                if sample:
                    yield sample
                name, sample = stem, {"__key__": f"{path}:{stem}".encode()}
            content = tar.extractfile(member)
            assert content is not None
            sample[extension] = content.read()
            if len(sample[extension]) != member.size:
                raise EOFError("file cut short")
        _check_end(tar)
    if sample:
        yield sample


def _check_end(tar: tarfile.TarFile) -> None:
    """Raises unless the archive ends as it should: to tarfile a broken header is the end of the archive."""
    file = tar.fileobj
    assert file is not None
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise EOFError(f"broken header or end of file at byte {tar.offset}")
    while file.read(1 << 20):  # to the end, where gzip compares its checksum
        pass
