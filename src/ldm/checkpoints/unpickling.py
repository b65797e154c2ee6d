"""Pickles beside tensors, read without running or importing anything that they name."""

import pickle
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import torch
from torch import _utils

# What torch writes for tensors: functions that build one from the bytes in the file, and nothing else.
TENSORS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
}
# No file of weights needs these; one that names them was made to run code.
HOSTILE_MODULES = frozenset(
    {"os", "posix", "nt", "sys", "subprocess", "runpy", "shutil", "socket", "pty", "importlib", "pickle"}
    | {"webbrowser", "ctypes", "code", "codeop", "commands", "multiprocessing", "asyncio", "requests"}
)
HOSTILE_BUILTINS = frozenset({"eval", "exec", "compile", "open", "getattr", "setattr", "__import__", "input"})


class Placeholder(dict):  # type: ignore[type-arg]
    """An object of a class that is not imported: it takes whatever a pickle does to it and does nothing."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__()

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__

    def __call__(self, *args: Any, **keywords: Any) -> "Placeholder":
        """Another placeholder."""
        return Placeholder()

    def __setstate__(self, state: Any) -> None:
        """Drops the state."""

    def append(self, value: Any) -> None:
        """Drops the value."""

    def extend(self, values: Any) -> None:
        """Drops the values."""

    def add(self, value: Any) -> None:
        """Drops the value."""


def inert_pickle(names: set[str]) -> Any:
    """A module like `pickle`, for `torch.load`, that turns unknown names into placeholders.

    Args:
        names: gets the full names that were met.

    Raises: UnpicklingError, when used, for a name that only a file made to run code has.
    """

    class Unpickler(pickle.Unpickler):
        """Resolves the names of tensors only."""

        def find_class(self, module: str, name: str) -> Any:
            """A function that builds tensors, a dtype, or a placeholder's class."""
            if (module, name) in TENSORS:
                return TENSORS[module, name]
            if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
                return found
            builtin = module in ("builtins", "__builtin__") and name.partition(".")[0] in HOSTILE_BUILTINS
            if builtin or module.partition(".")[0] in HOSTILE_MODULES:
                raise pickle.UnpicklingError(f"it would run {module}.{name}")
            names.add(f"{module}.{name}")
            return type(name.rpartition(".")[2], (Placeholder,), {"__module__": module})

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return SimpleNamespace(Unpickler=Unpickler, load=load, __name__="inert_pickle")
