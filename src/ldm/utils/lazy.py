"""Public names of a package, each imported when it is first used."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package.

    Args:
        package: its name.
        homes: public name -> module that defines it.
    """

    def getattr_(name: str) -> Any:
        """The public name `name`, from the module that defines it."""
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    def dir_() -> list[str]:
        """The public names, imported or not."""
        return sorted(homes)

    return getattr_, dir_
