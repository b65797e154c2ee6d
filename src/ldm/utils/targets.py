"""Classes and functions that a `_target_` may name: an allow-list and the user's own modules."""

import contextlib
import difflib
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ldm.utils.errors import UserError

ALLOWED = ("ldm.", "lightning.pytorch.", "torch.optim.", "torch.nn.")
STORED = ("ldm.diffusion.", "ldm.schedulers.", "ldm.guidance.", "ldm.models.")
"""Packages whose objects a file may name: reading a model or an image runs no other code."""

_folders: list[Path] = []


@contextlib.contextmanager
def user_modules(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    """While inside, targets may name the Python modules in a folder of the user's.

    Only modules that lie in the folder itself become available, never what they import. They are forgotten
    afterwards, so that another folder may have modules of the same names.

    Args:
        folder: with Python files or packages; None for none.

    Raises: UserError if there is no such folder.
    """
    if folder is None:
        yield
        return
    path = Path(folder).resolve()
    if not path.is_dir():
        raise UserError(f"modules must be a folder, got {str(folder)!r}")
    before = set(sys.modules)
    _folders.append(path)
    sys.path.append(str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))
        _folders.remove(path)
        if path not in _folders:
            for name in [n for n, m in sys.modules.items() if n not in before and _lies_in(m, path)]:
                del sys.modules[name]


def locate(name: Any, allowed: tuple[str, ...] = ALLOWED) -> Callable[..., Any]:
    """The class or function that a dotted name stands for.

    Args:
        name: value of a `_target_`.
        allowed: prefixes of the names that are accepted besides the modules of the user's folders.

    Raises: UserError for a name that is not accepted or does not exist.
    """
    if not isinstance(name, str) or not (name.startswith(allowed) or _is_own(name)):
        raise UserError(_refusal(name, allowed))
    parts = name.split(".")
    module, rest = _imported(parts)
    try:
        target: Any = functools.reduce(getattr, rest, module)
    except AttributeError:
        options = [n for n in vars(module) if not n.startswith("_")]
        near = difflib.get_close_matches(rest[0], options, 1)
        start = parts[: len(parts) - len(rest)]
        hint = f"; did you mean '{'.'.join([*start, near[0]])}'?" if near else ""
        raise UserError(f"{name!r} not found{hint}") from None
    home = getattr(target, "__module__", None) or ""
    # ldm.x.os.system starts with "ldm.", but is defined elsewhere
    if not callable(target) or not (f"{home}.".startswith(allowed) or _is_own(home)):
        raise UserError(f"{name!r} is not a class or function of {', '.join(allowed)}")
    return target


def _imported(parts: list[str]) -> tuple[ModuleType, list[str]]:
    """The innermost module of a dotted name, imported, and the parts of the name that are left."""
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            return importlib.import_module(name), parts[end:]
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):  # something that the module itself imports
                raise UserError(f"{name!r} cannot be imported: {error}") from error
        except (ImportError, SyntaxError) as error:
            raise UserError(f"{name!r} cannot be imported: {error}") from error
    raise UserError(f"{'.'.join(parts)!r} not found")


def _refusal(name: Any, allowed: tuple[str, ...]) -> str:
    """The reason why a name is not accepted, and how to have it accepted."""
    top = name.partition(".")[0] if isinstance(name, str) else ""
    starts, known = ", ".join(allowed), {prefix.partition(".")[0] for prefix in allowed}
    if top in sys.stdlib_module_names | known or "." not in str(name):
        return f"{name!r} is not allowed; targets start with {starts}"
    if any(_file_of(folder, top) for folder in _folders):
        return f"{name!r} is not allowed: an installed package is called {top}; rename the module"
    return (
        f"{name!r} is not allowed: there is no module {top!r} in {starts}; one of your own needs its folder "
        f"(--config-dir FOLDER, in Python modules='FOLDER')"
    )


def _file_of(folder: Path, top: str) -> Path | None:
    """The file of a top-level module in a folder."""
    options = (folder / f"{top}.py", folder / top / "__init__.py")
    return next((path for path in options if path.is_file()), None)


def _is_own(name: str) -> bool:
    """True for names in a module of the user's folders, unless the name belongs to another module."""
    top = name.partition(".")[0]
    file = next((file for folder in _folders if (file := _file_of(folder, top))), None)
    if file is None or top in sys.stdlib_module_names:
        return False
    if top not in sys.modules:
        found = importlib.util.find_spec(top)
        return found is not None and found.origin == str(file)
    return getattr(sys.modules[top], "__file__", None) == str(file)


def _lies_in(module: Any, folder: Path) -> bool:  # some packages register other objects
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)
