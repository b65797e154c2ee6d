"""Files of textual inversion: words with vectors of their own, as the web UI and diffusers write them."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.checkpoints.adapter_names import split
from ldm.checkpoints.tensors import load_archive
from ldm.utils.errors import UserError
from ldm.utils.files import replacing

log = logging.getLogger(__name__)

FILES = ("learned_embeds.safetensors", "learned_embeds.bin")  # as diffusers calls them
SUFFIXES = (".safetensors", ".pt", ".bin")
WEB_UI, WEB_UI_SAFE = "string_to_param", "emb_params"
Words = dict[str, Tensor]
"""Vectors (n, d) of each word."""


def inversion_files(path: Path) -> list[Path]:
    """The files that a path names: itself, that of diffusers in a folder, or else all in the folder.

    Raises: FileNotFoundError if there is none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"no file or folder {path}")
    for name in FILES:
        if (path / name).is_file():
            return [path / name]
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise FileNotFoundError(f"no textual inversion in {path}: no file {', '.join(SUFFIXES)}")
    return found


def read_words(path: Path, word: str | None = None) -> Words:
    """The words in a file or folder with their vectors.

    A file of diffusers holds its word. That of a file of the web UI is its name without the suffix, as well
    as the name that was chosen in training.

    Args:
        path: a file `.pt`, `.bin` or `.safetensors`, or a folder of such.
        word: for the vectors of a file with one word, in place of its own.

    Raises: FileNotFoundError; ValueError if a file is no textual inversion, or if two have one word.
    """
    words: Words = {}
    for file in inversion_files(path):
        contents = _contents(file)
        try:
            found = _words(file, contents)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from error
        if word is not None:
            if len({id(vectors) for vectors in found.values()}) != 1 or words:
                raise UserError(f"{path}: a word can be chosen for one textual inversion, not for several")
            found = {word: next(iter(found.values()))}
        if twice := words.keys() & found.keys():
            raise UserError(f"{file}: the word {min(twice)!r} is in another file, too")
        words |= found
    return words


def _contents(file: Path) -> Mapping[str, Any]:
    """All that a file holds; nothing in it is run."""
    if file.stat().st_size == 0:
        raise UserError(f"{file} is empty")
    with file.open("rb") as opened:
        head = opened.read(9)
    if head[8:9] == b"{":
        try:
            with safe_open(file, framework="pt", device="cpu") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{file} is not a whole safetensors file: {error}") from error
    try:  # old files of the web UI have a ParameterDict, which is rebuilt by torch and by no code of the file
        with torch.serialization.safe_globals([nn.ParameterDict, set]):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # of many kinds; the errors of archives are written once
        loaded = load_archive(file)
    return loaded if isinstance(loaded, Mapping) else {}


def _words(file: Path, contents: Mapping[str, Any]) -> Words:
    """The words in the contents of a file."""
    if {"clip_l", "clip_g"} & contents.keys():
        raise UserError("it is for SDXL, whose two text encoders have vectors of their own")
    if WEB_UI in contents or WEB_UI_SAFE in contents:
        parts = contents.get(WEB_UI, {"*": contents.get(WEB_UI_SAFE)})
        values = list(parts.values()) if hasattr(parts, "values") else []
        if len(values) != 1:
            raise UserError(f"it must hold the vectors of one word, got {len(values)}")
        vectors, name = _vectors(values[0], WEB_UI), contents.get("name")
        names = {file.stem.lower(): file.stem}
        if isinstance(name, str) and name.strip() not in ("", "*"):
            names.setdefault(name.strip().lower(), name.strip())
        return dict.fromkeys(names.values(), vectors)
    if any(split(str(name)) for name in contents):
        raise UserError("it is a file of adapters, not of textual inversion")
    found = {str(word): value for word, value in contents.items() if isinstance(value, Tensor)}
    if not found or len(found) != len(contents) or any(value.dim() not in (1, 2) for value in found.values()):
        raise UserError(
            "it holds no textual inversion: neither a word with its vectors nor those of the web UI"
        )
    return {word: _vectors(value, word) for word, value in found.items()}


def _vectors(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() not in (1, 2) or not value.is_floating_point():
        raise UserError(f"{name} must be vectors of real numbers, got {_shape(value)}")
    vectors: Tensor = torch.atleast_2d(value.detach().float())
    if not bool(vectors.isfinite().all()):
        raise UserError(f"{name} holds NaN or infinite values in the file")
    return vectors


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


def save_words(path: Path, words: Mapping[str, Tensor]) -> None:
    """Writes words with their vectors as diffusers and the web UI read them.

    Args:
        path: of the `.safetensors` file; an existing one is replaced.
        words: vectors (n, d) of each; the web UI reads files of one word.

    Raises: ValueError for another suffix, or if there is no word.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"a textual inversion is written as a file .safetensors, got {path}")
    if not words:
        raise UserError("there is no learned word to write")
    tensors = {word: value.detach().cpu().contiguous() for word, value in words.items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error
    log.info("wrote %s", path)
