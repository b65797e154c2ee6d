"""Checkpoints that name classes beside their tensors are read, and nothing that they name is run."""

import argparse
import collections
import io
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.checkpoints.tensors import TensorFiles, load_archive
from ldm.checkpoints.unpickling import Placeholder, inert_pickle

RAN: list[Any] = []
WEIGHT = torch.arange(6.0).view(2, 3)


def record(*args: Any) -> None:
    RAN.append(args)


class Reduced:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


class Callback:
    """A class that is not there when the file is read."""

    def __setstate__(self, state: Any) -> None:
        RAN.append(state)


def foreign(monkeypatch: pytest.MonkeyPatch, name: str) -> type:
    """A class of a module that is there only while a file is written."""
    made = type("ModelCheckpoint", (Callback,), {"__module__": name})
    module = types.ModuleType(name)
    module.ModelCheckpoint = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    return made


def beside(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What checkpoints of training hold beside their weights."""
    kind = foreign(monkeypatch, "absent_package")
    instance = kind()
    instance.best = 3
    return {
        "callbacks": {kind: {"monitor": "val/loss", "best": np.float64(0.3)}, "other": instance},
        "global_step": np.int64(470_000),
        "history": collections.defaultdict(list, {"loss": [np.float32(1.0)]}),
        "hyper_parameters": argparse.Namespace(lr=1e-4, path=Path("a/b"), tags={"x"}, ids=range(3)),
        "function": record,
        "array": np.arange(3),
        "call": Reduced(record, "ran"),
        "epoch": 5,
    }


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_only_the_tensors_are_read(
    new: bool, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    path = tmp_path / f"a{suffix}"
    parameter = torch.nn.Parameter(WEIGHT.half())
    state = collections.OrderedDict(w=WEIGHT, p=parameter, n=torch.arange(3), t=WEIGHT.t())
    content = {"state_dict": state, **beside(monkeypatch)}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    monkeypatch.delitem(sys.modules, "absent_package")
    before = set(sys.modules)
    RAN.clear()
    with TensorFiles([path]) as files:
        assert files.shapes == {"w": (2, 3), "p": (2, 3), "n": (3,), "t": (3, 2)}
        assert torch.equal(files.get("w"), WEIGHT)
        assert torch.equal(files.get("p"), WEIGHT.half())
        assert torch.equal(files.get("t"), WEIGHT.t())
    assert RAN == []
    assert not {name for name in set(sys.modules) - before if name.startswith("absent_package")}
    assert "absent_package.ModelCheckpoint" in caplog.text


def test_plain_values_stay_and_objects_are_placeholders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save({"w": WEIGHT, **beside(monkeypatch)}, tmp_path / "a.pt")
    loaded = load_archive(tmp_path / "a.pt")
    assert loaded["epoch"] == 5
    for name in ("global_step", "call", "hyper_parameters", "array", "history"):
        assert isinstance(loaded[name], Placeholder), name
    assert issubclass(loaded["function"], Placeholder)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("state_dict", lambda state: {"state_dict": state}),
        ("model", lambda state: {"model": state, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}}),
        ("module", lambda state: {"module": state, "global_steps": 3}),
        ("deep", lambda state: {"epoch": 1, "model": {"state_dict": {"module": state}}}),
        ("beside tensors", lambda state: {"step": torch.tensor(3), "model_state_dict": state}),
        ("bare", lambda state: state),
    ],
)
def test_the_state_of_a_net_is_found_however_deep_it_is(name: str, wrap: Any, tmp_path: Path):
    torch.save(wrap({"a.weight": WEIGHT, "a.bias": WEIGHT[0]}), tmp_path / "a.ckpt")
    with TensorFiles([tmp_path / "a.ckpt"]) as files:
        assert set(files.shapes) == {"a.weight", "a.bias"}, name


@pytest.mark.parametrize(
    "payload",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(cbuiltins\nint\nS'x'\ntR.",
        b"csubprocess\nPopen\n(S'true'\ntR.",
        b"cimportlib\nimport_module\n(S'this'\ntR.",
    ],
)
def test_a_pickle_made_to_run_code_is_refused(payload: bytes):
    names: set[str] = set()
    with pytest.raises(pickle.UnpicklingError, match="it would run "):
        inert_pickle(names).load(io.BytesIO(payload))


def test_functions_of_torch_that_read_files_are_not_called():
    names: set[str] = set()
    code = b"ctorch.storage\n_load_from_bytes\n(S'x'\ntR."
    assert isinstance(inert_pickle(names).load(io.BytesIO(code)), Placeholder)
    assert names == {"torch.storage._load_from_bytes"}
