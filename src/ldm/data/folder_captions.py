"""Captions in `metadata.jsonl` or `metadata.csv`, as Hugging Face's imagefolder has them, and its splits."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm.utils.errors import UserError
from ldm.utils.text_files import lines_of, read_text

METADATA = ("metadata.jsonl", "metadata.csv")
NAMES = ("file_name", "image_file_name")  # columns that can hold the path of the image
CAPTIONS = ("text", "caption")  # columns that hold captions where there are several
SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}


def described(files: Iterable[Path], root: Path) -> dict[Path, str]:
    """Captions by image file, of all metadata below a folder; those nearest to a file count.

    Args:
        files: all that lie below the folder.
        root: the folder.

    Raises: ValueError for metadata that cannot be read, naming the command that reads them if there is one.
    """
    found: dict[Path, str] = {}
    for path in sorted(files, key=lambda path: (len(path.parts), path)):
        if path.name == "metadata.parquet":
            raise UserError(f"{path} is not read here: {_command(root)} writes shards of it")
        if path.name in METADATA:
            found |= _captions(path, root)
    return found


def check_splits(images: Sequence[Path], root: Path) -> str | None:
    """Name of the split that a folder holds, as its only folder; None if its folders are no splits.

    Raises: ValueError if it holds several.
    """
    folders = sorted({path.relative_to(root).parts[0] for path in images if path.parent != root})
    if not folders or any(path.parent == root for path in images):
        return None
    if not all(folder.lower() in SPLITS for folder in folders):
        return None
    if len(folders) > 1:
        chosen = next((name for name in folders if name.lower().startswith("train")), folders[0])
        raise UserError(
            f"{root} holds the splits {', '.join(folders)}: choose one, such as data.root={root / chosen}"
        )
    return folders[0]


def _captions(path: Path, root: Path) -> dict[Path, str]:
    """Captions by image file, of one file of metadata."""
    rows = list(_rows(path))
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    image = next((name for name in NAMES if name in columns), None)
    if image is None:
        raise UserError(f"{path} has no column file_name, but {', '.join(columns) or 'none'}")
    column = _caption_column(path, root, rows, [name for name in columns if name != image])
    found: dict[Path, str] = {}
    for line, row in rows:
        if not isinstance(name := row.get(image), str) or not name.strip():
            raise UserError(f"{path}, line {line}: {image} must name an image, got {name!r}")
        file = Path(os.path.normpath(path.parent / name.strip().replace("\\", "/")))
        text = "\n".join(lines_of(str(row.get(column) or ""))).strip()
        if found.setdefault(file, text) != text:
            raise UserError(f"{path}, line {line}: {name} has two captions: {_command(root)} reads both")
    return found


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Lines of a file of metadata, with their numbers."""
    text = read_text(path)
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for row in reader:
            yield reader.line_num, {name: value for name, value in row.items() if name is not None}
        return
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: must be an object, got {line[:60]}")
        yield number, row


def _caption_column(
    path: Path, root: Path, rows: Sequence[tuple[int, Mapping[str, Any]]], columns: Sequence[str]
) -> str:
    """The column of texts: of a known name, or the only one."""
    texts = [c for c in columns if all(isinstance(row.get(c), str | None) for _, row in rows)]
    named = [c for c in CAPTIONS if c in texts]
    if named or len(texts) == 1:
        return (named or texts)[0]
    raise UserError(
        f"{path} has no column {' or '.join(CAPTIONS)}, but {', '.join(columns) or 'none'}: "
        f"{_command(root)} caption_column=COLUMN reads it"
    )


def _command(root: Path) -> str:
    return f"ldm-data hf dataset={root} output=FOLDER"
