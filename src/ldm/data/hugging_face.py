"""Samples of a Hugging Face dataset: from the hub, a file or folder, or a folder of `save_to_disk`."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ldm.data.decode import BadSample, decode
from ldm.data.shards.writer import Sample, of_bytes
from ldm.utils.errors import UserError
from ldm.utils.text_files import lines_of

MAX_PIXELS = 10**9
READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".arrow": "arrow"}


def open_dataset(name: str, split: str) -> Any:
    """A split of a dataset.

    Args:
        name: a name on the hub; a folder of `save_to_disk`; a file or folder of parquet, arrow, json or csv.
        split: which part, also as `train[:100]` where the library takes it.

    Raises: ValueError if the library is not installed, or the split is not there.
    """
    datasets = _library()
    path = Path(name)
    if (path / "dataset_dict.json").is_file():
        parts = datasets.load_from_disk(name)
        if split not in parts:
            raise UserError(f"split must be one of {', '.join(parts)}, got {split!r}")
        return parts[split]
    if (path / "state.json").is_file():
        return datasets.load_from_disk(name)
    try:
        if path.is_file():
            if path.suffix not in READERS:
                raise UserError(f"{name}: must be one of {', '.join(READERS)}")
            return datasets.load_dataset(READERS[path.suffix], data_files=str(path), split=split)
        return datasets.load_dataset(name, split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{name}: cannot be loaded: {error}") from error


def samples_of(
    dataset: Any, image_column: str, caption_column: str, skipped: Counter[str]
) -> Iterator[Sample]:
    """The samples of a dataset, their image files as they are where shards can hold them, else as PNG.

    Args:
        dataset: of `open_dataset`.
        image_column: of images, or of the bytes of image files.
        caption_column: of texts, or of class labels, whose names are the captions.
        skipped: counts, by cause, what has no caption or no image that can be read, and is left out.

    Raises: ValueError if there is no such column, or it is of another kind.
    """
    datasets = _library()
    for column, key in ((image_column, "image_column"), (caption_column, "caption_column")):
        if column not in dataset.features:
            raise UserError(f"{key} must be one of {', '.join(dataset.features)}, got {column!r}")
    if isinstance(dataset.features[image_column], datasets.Image):
        dataset = dataset.cast_column(image_column, datasets.Image(decode=False))
    caption = _captions(dataset.features[caption_column], caption_column)
    for row in dataset.select_columns([*{image_column, caption_column}]):
        try:
            text = caption(row[caption_column])
            yield _sample(_file(row[image_column], image_column), text)
        except BadSample as error:
            skipped[str(error)] += 1


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError("ldm-data hf needs the library datasets: pip install 'ldm[hf]'") from error
    return datasets


def _captions(feature: Any, column: str) -> Callable[[Any], str]:
    """A function from a column's value to a caption."""
    names: Sequence[str] = getattr(feature, "names", None) or ()
    if not names and getattr(feature, "dtype", None) not in ("string", "large_string"):
        raise UserError(f"column {column!r} holds neither texts nor class labels: {feature}")

    def caption(value: Any) -> str:
        if names:
            known = isinstance(value, int) and 0 <= value < len(names)  # -1 stands for none
            value = names[value] if known else None
        text = "\n".join(lines_of(str(value or ""))).strip()
        if not text:
            raise BadSample("no caption")
        return text

    return caption


def _file(value: Any, column: str) -> bytes:
    """The bytes of an image file out of what a column holds."""
    if value is None:
        raise BadSample("no image")
    if isinstance(value, dict) and value.get("bytes"):
        value = value["bytes"]
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict) and value.get("path"):
        try:
            return Path(value["path"]).read_bytes()
        except OSError as error:
            raise BadSample("no image file") from error
    if isinstance(value, dict) and "bytes" in value:
        raise BadSample("no image")
    raise UserError(f"column {column!r} does not hold images: {type(value).__name__}")


def _sample(data: bytes, caption: str) -> Sample:
    """A sample of an image file that can be decoded."""
    decode(data, (8, 8), MAX_PIXELS)
    return of_bytes(data, caption)
