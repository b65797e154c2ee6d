"""Files of tensors, read without copying and without running code: safetensors and torch's archives."""

import json
import logging
import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm.checkpoints.contents import SAFETENSORS, kind_of
from ldm.checkpoints.unpickling import inert_pickle
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

SHARDING = "DCP_SHARDING_INFO"  # where torch's distributed checkpoints say what part of a tensor a file holds
TRAINING = "ldm"  # where a training checkpoint of ours holds its metadata
HELD = 2**28  # bytes that are converted before the pages they were read from are given back
# Where programs put a model's tensors, beside the state of its training.
NESTED = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
    "state",
    "ema",
)


@dataclass(frozen=True)
class Piece:
    """A part of a tensor: its offset in the whole, its shape and how to read it."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    get: Callable[[], Tensor]


def shape_of(name: str, pieces: list[Piece]) -> tuple[int, ...]:
    """The shape of the tensor that the pieces make.

    Raises: ValueError if they leave gaps or overlap.
    """
    if any(len(piece.offset) != len(piece.shape) or min(piece.offset, default=0) < 0 for piece in pieces):
        raise UserError(f"the shards of {name} have no places")
    ends = [[o + n for o, n in zip(piece.offset, piece.shape, strict=True)] for piece in pieces]
    shape = tuple(map(max, zip(*ends, strict=True)))
    if sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
        raise UserError(f"the shards of {name} do not make a whole: is a file missing?")
    return shape


def joined(pieces: list[Piece], shape: tuple[int, ...]) -> Tensor:
    """The tensor of a shape that the pieces make."""
    parts = [piece.get() for piece in pieces]
    result = parts[0].new_empty(shape)
    for piece, part in zip(pieces, parts, strict=True):
        result[tuple(slice(o, o + n) for o, n in zip(piece.offset, piece.shape, strict=True))] = part
    return result


class TensorFiles:
    """The tensors of one or several files under their names, read when asked for.

    Args:
        paths: safetensors, whole or the shards of a distributed checkpoint, or archives of `torch.save`; the
            content decides, not the suffix. Dicts under the names `NESTED` are looked into. Files stay mapped
            into memory while tensors of them live.

    Raises: FileNotFoundError; ValueError for a file that is empty, truncated, of another kind, or a pickle
        that would run code.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.metadata: dict[str, str] = {}
        self._get: dict[str, Callable[[], Tensor]] = {}
        self._open: dict[Path, Any] = {}
        self._pieces: dict[str, list[Piece]] = {}
        self._converted = 0
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"no model file at {path}")
            (self._open_safetensors if kind_of(path) == SAFETENSORS else self._open_torch)(path)
        for name, pieces in self._pieces.items():
            self.shapes[name] = shape_of(name, pieces)
            self._get[name] = partial(joined, pieces, self.shapes[name])

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.clear()

    def rename(self, change: Callable[[str], str | None]) -> None:
        """Gives the tensors other names; those whose new name is None are left out."""
        names = {name: new for name in self.shapes if (new := change(name)) is not None}
        self.shapes = {new: self.shapes[name] for name, new in names.items()}
        self._get = {new: self._get[name] for name, new in names.items()}

    def get(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor, on the CPU.

        Args:
            name: of the tensor.
            dtype: of a floating-point tensor; None: that which it is stored in.
        """
        stored = self._get[name]()
        if dtype in (None, stored.dtype) or not stored.is_floating_point():
            return stored
        self._converted += stored.nbytes
        if self._converted >= HELD:
            self._open.clear()  # what was read through a mapping takes memory as long as the mapping lives
            self._converted = 0
        return stored.to(dtype)

    def _of_safetensors(self, path: Path, name: str) -> Tensor:
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt", device="cpu")
        tensor: Tensor = self._open[path].get_tensor(name)
        return tensor

    def _open_safetensors(self, path: Path) -> None:
        try:
            file: Any = safe_open(path, framework="pt", device="cpu")
            self.metadata |= file.metadata() or {}
            offsets = json.loads(self.metadata.pop(SHARDING, "{}"))
            for name in file.keys():  # noqa: SIM118
                self.shapes[name] = tuple(file.get_slice(name).get_shape())
                self._get[name] = partial(self._of_safetensors, path, name)
                if offsets:
                    piece = Piece(tuple(offsets[name]["saved_offsets"]), self.shapes[name], self._get[name])
                    self._pieces.setdefault(name, []).append(piece)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a whole safetensors file: {error}") from error

    def _open_torch(self, path: Path) -> None:
        loaded = load_archive(path)
        state = _state_dict(loaded)
        said = loaded.get(TRAINING) if isinstance(loaded, Mapping) else None
        if isinstance(said, Mapping):
            self.metadata |= {str(key): str(value) for key, value in said.items()}
        for name, value in state.items():
            if isinstance(value, Tensor):
                self.shapes[name] = tuple(value.shape)
                self._get[name] = value.detach


def load_archive(path: Path) -> Any:
    """Contents of a `torch.save` archive, memory-mapped where the format allows.

    Tensors and plain types are read; objects of other classes, such as the callbacks in checkpoints of
    Lightning 1.x, become inert placeholders (`ldm.checkpoints.unpickling`). Nothing that a file names is run.

    Raises: ValueError for a file that is no such archive or would run code.
    """
    kind_of(path)
    try:
        return _loaded(path, weights_only=True)
    except pickle.UnpicklingError:
        names: set[str] = set()
    except Exception as error:  # of many kinds, by what is broken
        raise UserError(f"{path} is not a whole checkpoint of torch: {_first_line(error)}") from error
    try:
        loaded = _loaded(path, weights_only=False, pickle_module=inert_pickle(names))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} was not read: there is more in it than tensors and plain types ({_first_line(error)})"
        ) from error
    except Exception as error:
        raise UserError(f"{path} is not a whole checkpoint of torch: {_first_line(error)}") from error
    log.info("objects in %s that are no tensors were left out: %s", path, ", ".join(sorted(names)))
    return loaded


def _loaded(path: Path, **options: Any) -> Any:
    """An archive by `torch.load`, mapped unless it is from before torch 1.6 or has a wrong suffix."""
    if path.suffix == ".safetensors":  # torch would take the path for such a file
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", **options)
    try:
        return torch.load(path, map_location="cpu", mmap=True, **options)
    except RuntimeError:
        return torch.load(path, map_location="cpu", mmap=False, **options)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _state_dict(loaded: Any) -> Mapping[str, Any]:
    """The dict of tensors in what an archive holds, however deep; empty if there is none."""
    if not isinstance(loaded, Mapping):
        return {}
    for name in NESTED:
        if found := _state_dict(loaded.get(name)):
            return found
    return loaded if any(isinstance(value, Tensor) for value in loaded.values()) else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises: FileNotFoundError; ValueError if the file holds no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
