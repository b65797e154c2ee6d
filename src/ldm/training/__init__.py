"""Training of both stages from a plain config, with or without the command line.

`run` is imported on first use, because it loads Lightning.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm.training.run import run as run

__all__ = ["run"]


class _Package(ModuleType):
    """The package, of which `run` is the function even once the module of that name is imported."""

    @property
    def run(self) -> Any:
        """The function `ldm.training.run.run`."""
        return import_module("ldm.training.run").run

    @run.setter
    def run(self, module: ModuleType) -> None:
        """Discards the module, which the import system sets on the package."""


sys.modules[__name__].__class__ = _Package
