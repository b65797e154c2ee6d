"""A look at the first sample of a tar shard, without an index."""

import json
import tarfile
from dataclasses import dataclass

from ldm.data.decode import BadSample, decode
from ldm.data.shards.index import IMAGES, open_binary
from ldm.data.shards.reader import shard_caption
from ldm.utils.errors import UserError
from ldm.utils.folders import is_clutter


@dataclass(frozen=True, kw_only=True)
class FirstSample:
    """The first sample of a shard.

    Args:
        name: of the sample.
        size: height and width of its image.
        caption: its text.
    """

    name: str
    size: tuple[int, int]
    caption: str


def first_sample(
    path: str, image_size: int, caption: str, fallback: str | None, max_pixels: int
) -> FirstSample:
    """The first sample of a shard; no more of the shard is read.

    Args:
        path: a file or a URL.
        image_size: height and width that the image is decoded for.
        caption: where the caption is: "txt", or a field of the json.
        fallback: field of the json that is taken if there is none.
        max_pixels: larger images are bad.

    Raises: FileNotFoundError if there is no such shard; ValueError if it does not begin with a sample.
    """
    with open_binary(path) as file:
        try:
            name, parts = _first_parts(file)
        except (tarfile.TarError, EOFError) as error:
            raise UserError(f"{path}: no plain tar file: {error}") from error
    kinds = {"image" if kind in IMAGES else kind: data for kind, data in parts.items()}
    if "image" not in kinds:
        raise UserError(f"{path}: its first sample, {name or 'none'}, has no image")
    try:
        size = decode(kinds["image"], (image_size, image_size), max_pixels).size
        return FirstSample(name=name, size=size, caption=_caption(kinds, caption, fallback))
    except BadSample as error:
        raise UserError(f"{path}: its first sample, {name}, cannot be used: {error}") from error


def _first_parts(file: object) -> tuple[str, dict[str, bytes]]:
    """Name of the first sample and its parts by extension."""
    first, parts = "", {}
    with tarfile.open(fileobj=file, mode="r|") as tar:  # type: ignore[call-overload]
        for member in tar:
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            name = f"{folder}/{stem}".lstrip("/")
            if not member.isfile() or is_clutter(member.name):
                continue
            if first and name != first:
                break
            first, content = name, tar.extractfile(member)
            parts[extension.lower()] = b"" if content is None else content.read()
    return first, parts


def _caption(parts: dict[str, bytes], field: str, fallback: str | None) -> str:
    try:
        said = json.loads(parts.get("json") or b"{}")
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    texts = [shard_caption(parts.get("txt", b"")) if field == "txt" else said.get(field)]
    return next((str(t).strip() for t in [*texts, said.get(fallback)] if t), "")
