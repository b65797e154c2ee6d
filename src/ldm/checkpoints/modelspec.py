"""Metadata of single files by the modelspec standard of Stability AI, as far as they describe the model."""

import re
from collections.abc import Mapping

from ldm.utils.errors import UserError

PREDICTION = "modelspec.prediction_type"
RESOLUTION = "modelspec.resolution"
SPELLINGS = {
    **dict.fromkeys(("epsilon", "eps"), "eps"),
    **dict.fromkeys(("v", "v_prediction", "v-prediction", "velocity"), "v"),
}


def prediction_of(metadata: Mapping[str, str]) -> str | None:
    """The prediction that the metadata of a file record, "eps" or "v"; None if they record none.

    Raises: ValueError for another one.
    """
    given = metadata.get(PREDICTION, "").strip().lower()
    if not given:
        return None
    if given not in SPELLINGS:
        raise UserError(f"{PREDICTION} in its metadata must be epsilon or v for ldm, got {given!r}")
    return SPELLINGS[given]


def image_size_of(metadata: Mapping[str, str]) -> int | list[int] | None:
    """The size in pixels in the metadata, [height, width] where they differ; None if there is none."""
    match = re.fullmatch(r"\s*(\d+)\s*(?:[xX,]\s*(\d+))?\s*", metadata.get(RESOLUTION, ""))
    if match is None:
        return None
    width, height = int(match[1]), int(match[2] or match[1])
    return width if width == height else [height, width]
