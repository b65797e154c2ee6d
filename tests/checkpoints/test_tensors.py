"""Files of tensors: nothing in them is run, and what is broken is one clear error."""

import itertools
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ldm.checkpoints.tensors import TensorFiles, load_archive, read_json


class Payload:
    """A pickle that makes a file when it is loaded without care."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_tensors_of_several_files_are_read_by_name(tmp_path: Path):
    save_file({"a": torch.arange(3)}, tmp_path / "1.safetensors", {"x": "1"})
    torch.save({"state_dict": {"b": torch.ones(2, 2), "note": "no tensor"}}, tmp_path / "2.ckpt")
    with TensorFiles([tmp_path / "1.safetensors", tmp_path / "2.ckpt"]) as files:
        assert files.shapes == {"a": (3,), "b": (2, 2)}
        assert files.metadata == {"x": "1"}
        assert torch.equal(files.get("a"), torch.arange(3))
        assert torch.equal(files.get("b"), torch.ones(2, 2))
        files.rename(lambda name: None if name == "a" else name.upper())
        assert files.shapes == {"B": (2, 2)}
        assert torch.equal(files.get("B"), torch.ones(2, 2))


def test_files_are_mapped_rather_than_read(tmp_path: Path):
    """A tensor that was got before its file is written over in place shows the new bytes."""
    save_file({"a": torch.zeros(1000)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "b.ckpt")
    for path in (tmp_path / "a.safetensors", tmp_path / "b.ckpt"):
        with TensorFiles([path]) as files:
            value = files.get("a")
            data = path.read_bytes()
            at = data.index(b"\0" * 4000)
            with path.open("r+b") as file:
                file.seek(at + 400)
                file.write(struct.pack("<f", 7.0))
            assert value.count_nonzero() > 0


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(
    legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.ckpt"
    torch.save(
        {"state_dict": {"w": torch.zeros(1)}, "x": Payload()}, path, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(
        ValueError, match=r"a\.ckpt was not read: there is more in it than tensors and plain types"
    ):
        load_archive(path)
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match=r"a\.ckpt"):
        load_archive(path)
    assert not Path("owned").exists()


def test_archives_from_before_torch_1_6_are_read(tmp_path: Path):
    torch.save({"w": torch.arange(4.0)}, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    with TensorFiles([tmp_path / "a.bin"]) as files:
        assert torch.equal(files.get("w"), torch.arange(4.0))


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt", "a.bin"])
@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_truncated_file_is_one_clear_error(name: str, kept: int, tmp_path: Path):
    path = tmp_path / name
    tensors = {"w": torch.arange(500.0)}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"{name} (is empty|is not a whole|was not read)") as error:
        TensorFiles([path])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode(),
        json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}).encode(),
        json.dumps({"w": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}).encode(),
    ],
)
def test_a_lying_header_is_one_clear_error(header: bytes, tmp_path: Path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
    with pytest.raises(ValueError, match=r"a\.safetensors is not a whole safetensors file"):
        TensorFiles([path])


@pytest.mark.parametrize("names", [("ema",), ("state",), ("model", "module"), ("state_dict", "params")])
def test_tensors_are_found_however_deep_a_program_puts_them(names: tuple[str, ...], tmp_path: Path):
    nested: object = {"a.weight": torch.ones(2)}
    for name in reversed(names):
        nested = {name: nested, "step": 3, "ema": {"decay": 0.9}} | {name: nested}
    torch.save(nested, tmp_path / "a.ckpt")
    with TensorFiles([tmp_path / "a.ckpt"]) as files:
        assert files.shapes == {"a.weight": (2,)}


def test_the_content_decides_and_not_the_suffix(tmp_path: Path):
    save_file({"w": torch.arange(2)}, tmp_path / "a.ckpt", {"x": "1"})
    torch.save({"w": torch.arange(2)}, tmp_path / "a.safetensors")
    for name, metadata in (("a.ckpt", {"x": "1"}), ("a.safetensors", {})):
        with TensorFiles([tmp_path / name]) as files:
            assert torch.equal(files.get("w"), torch.arange(2))
            assert files.metadata == metadata


@pytest.mark.parametrize(
    ("text", "says"), [("{", "is not JSON"), ("[1]", "must hold a JSON object, got list")]
)
def test_json_is_checked(text: str, says: str, tmp_path: Path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match=r"no file at .*b\.json"):
        read_json(tmp_path / "b.json")


def test_converting_gives_back_what_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm.checkpoints.tensors.HELD", 1)  # after each tensor
    tensors = {f"w{i}": torch.randn(4, 4) for i in range(3)} | {"n": torch.arange(3)}
    save_file(tensors, tmp_path / "a.safetensors")
    with TensorFiles([tmp_path / "a.safetensors"]) as files:
        kept = files.get("w0")
        for name, value in tensors.items():
            found = files.get(name, torch.bfloat16)
            assert torch.equal(found, value.bfloat16() if value.is_floating_point() else value)
        assert torch.equal(kept, tensors["w0"])


def write_shards(folder: Path, whole: torch.Tensor, cuts: list[int]) -> list[Path]:
    """Shards of a matrix, cut along its rows, as torch's distributed checkpoints have them."""
    paths = []
    for i, (start, end) in enumerate(itertools.pairwise([0, *cuts, len(whole)])):
        paths.append(folder / f"shard-{i}.safetensors")
        places = json.dumps({"x": {"saved_offsets": [start, 0]}, f"only{i}": {"saved_offsets": []}})
        part = {"x": whole[start:end].clone(), f"only{i}": torch.tensor(float(i))}
        save_file(part, paths[-1], {"format": "pt", "DCP_SHARDING_INFO": places})
    return paths


def test_shards_are_read_as_the_whole(tmp_path: Path):
    whole = torch.arange(35.0).view(7, 5)
    paths = write_shards(tmp_path, whole, [3, 6, 7])  # the last one is empty
    with TensorFiles(reversed(paths)) as files:
        assert files.shapes["x"] == (7, 5)
        files.rename(lambda name: f"net.{name}")
        assert torch.equal(files.get("net.x"), whole)
        assert files.get("net.only2") == 2.0


def test_shards_with_a_gap_or_without_places_are_refused(tmp_path: Path):
    paths = write_shards(tmp_path, torch.arange(35.0).view(7, 5), [3, 6])
    with pytest.raises(ValueError, match="the shards of x do not make a whole"):
        TensorFiles([paths[0], paths[2]])
    save_file({"x": torch.zeros(2)}, paths[0], {"DCP_SHARDING_INFO": '{"x": {"saved_offsets": [0, 0]}}'})
    with pytest.raises(ValueError, match="the shards of x have no places"):
        TensorFiles([paths[0]])
    save_file({"x": torch.zeros(2)}, paths[0], {"DCP_SHARDING_INFO": '{"y": 1}'})
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        TensorFiles([paths[0]])
