"""Models and files of them, and what their weights are compared by."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.converter import write_checkpoint


def states(model: LoadedModel) -> dict[str, Tensor]:
    return {f"{c}.{k}": v for c, module in model.components.items() for k, v in module.state_dict().items()}


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """The same names, shapes, dtypes and bytes."""
    same = [
        a[k].shape == b[k].shape and a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a if k in b
    ]
    return a.keys() == b.keys() and all(same)


def weight(loaded: LoadedModel) -> Tensor:
    """The first of the backbone."""
    return loaded.components["backbone"].conv_in.weight


@pytest.fixture
def model(stable_diffusion: Callable[..., LoadedModel]) -> LoadedModel:
    return stable_diffusion("sd1", 0)


@pytest.fixture
def folder(model: LoadedModel, tmp_path: Path) -> Path:
    write_checkpoint(model, tmp_path / "folder", "diffusers")
    return tmp_path / "folder"


@pytest.fixture
def weights() -> ModuleType:
    """The functions of this file."""
    return sys.modules[__name__]
