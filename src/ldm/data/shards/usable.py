"""Refusals of data of which nothing, or too little, can be used, with the reason and the key to set."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ldm.data.decode import BadSample
from ldm.data.shards.index import IMAGES, Shard, ShardIndex
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)
SHOWN = 8  # names in a message
TRIED = 100  # samples that are looked at


def check_shards(shards: Sequence[Shard], limit: float) -> None:
    """Logs the damage of shards.

    Args:
        shards: of an index.
        limit: share of them that may hold no sample because of their damage.

    Raises: ValueError past the limit.
    """
    lost = [shard for shard in shards if shard.damage and not shard.samples]
    if len(lost) > limit * len(shards):
        named = "; ".join(f"{shard.path} {shard.damage}" for shard in lost[:SHOWN])
        raise UserError(
            f"{len(lost)} of {len(shards)} shards cannot be used, and max_bad_fraction is {limit:g}: {named}"
        )
    for shard in shards:
        if shard.damage:
            log.warning("%s %s; %d samples are used", shard.path, shard.damage, shard.samples)


def check_images(index: ShardIndex) -> None:
    """Refuses shards of which no sample has an image.

    Raises: ValueError with the first names and the extensions that were found.
    """
    if (index.samples["image_size"] > 0).any():
        return
    names = [name for shard in index.shards for name in shard.names][:SHOWN]
    found = sum((Counter(shard.extensions) for shard in index.shards), Counter[str]())
    kinds = ", ".join(f"{count} of {kind or 'none'}" for kind, count in found.most_common(SHOWN))
    raise UserError(
        f"no sample is left to train on: none of {len(index.samples)} has an image ({', '.join(IMAGES)}); "
        f"first names: {', '.join(names) or 'none'}; extensions, which begin at the first dot of a name: "
        f"{kinds or 'none'}; set data.shards to shards with files such as 000000012.jpg, 000000012.txt"
    )


def check_captions(
    index: ShardIndex, rows: np.ndarray, field: str, fallback: str | None, reader: Any
) -> None:
    """Refuses samples none of which has a caption where it is looked for.

    Args:
        index: of the shards.
        rows: of the index that are used.
        field: "txt", or a field of the json.
        fallback: field of the json that is taken if there is none.
        reader: of the shards.

    Raises: ValueError with the fields that the json has.
    """
    samples, names = index.samples, [name for shard in index.shards for name in shard.names][:SHOWN]
    if field == "txt" and (samples["text_size"][rows] >= 0).any():
        return
    some = rows[np.linspace(0, len(rows) - 1, min(TRIED, len(rows))).astype(int)].tolist()
    fields = dict.fromkeys(name for row in some for name in _fields(reader.part(row, "json")))
    if field in fields or fallback in fields:
        return
    found = f"first names: {', '.join(names)}"
    if fields:
        choice = next((name for name in ("caption", "text", "TEXT", "title") if name in fields), "FIELD")
        found += f"; fields of their json: {', '.join(fields)}; set data.caption={choice}"
    elif (samples["text_size"] >= 0).any():
        found += "; the files of a sample must follow one another in data.shards, image and text side by side"
    else:
        found += "; set data.shards to shards with a .txt beside each image"
    raise UserError(f"none of {len(rows)} samples has a caption ({field}); {found}")


def check_some(rows: np.ndarray, read: Callable[[int], Any]) -> None:
    """Reads samples from all over the data until one is good.

    Args:
        rows: that are used.
        read: reads one; raises BadSample.

    Raises: ValueError if none of them is.
    """
    causes = Counter[str]()
    for row in rows[np.linspace(0, len(rows) - 1, min(TRIED, len(rows))).astype(int)].tolist():
        try:
            read(row)
            return
        except BadSample as error:
            causes[str(error)] += 1
    raise UserError(f"none of {causes.total()} samples from all over data.shards can be used: {dict(causes)}")


def _fields(data: bytes | None) -> list[str]:
    """Names of the fields of a json that hold texts."""
    try:
        said = json.loads(data or b"{}")
    except ValueError:
        return []
    return [name for name, value in said.items() if isinstance(value, str)] if isinstance(said, dict) else []
