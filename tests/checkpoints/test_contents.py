"""The content of a file decides how it is read, and what is no file of weights is named."""

import gzip
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ldm.checkpoints.contents import SAFETENSORS, TORCH, kind_of

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4265146304\n"
NAMES = ["a.safetensors", "a.ckpt", "a.bin", "a"]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_known_by_their_bytes(name: str, tmp_path: Path):
    path = tmp_path / name
    save_file({"w": torch.zeros(2)}, path)
    assert kind_of(path) == SAFETENSORS
    for new in (True, False):
        torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=new)
        assert kind_of(path) == TORCH


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (POINTER.encode(), "is a git-lfs pointer, .*git lfs pull"),
        (POINTER.replace("\n", "\r\n").encode(), "is a git-lfs pointer"),
        (b"<!DOCTYPE html><html><title>Sign in</title></html>", r"is a web page \(HTML\)"),
        (b"\n  <html lang='en'><head>" * 50, r"is a web page \(HTML\)"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
        (b'{"error": "Access to model x is restricted"}', "is JSON, not weights: '{\"error"),
        (b'{"a":1,"{b":2, "metadata": {"total_size": 3}, "weight_map": {}}' * 20, "is JSON"),
        (b"Entry not found", "is text, not weights: 'Entry not found'"),
        (gzip.compress(b"weights", mtime=0), "is packed with gzip: unpack it first"),
        (b"Rar!\x1a\x07\x01\x00" + b"\x01" * 90, "is packed with rar"),
        (b"GGUF\x03\x00\x00\x00" + b"\x01" * 90, "is weights in the GGUF format"),
        (b"\x89PNG\r\n\x1a\n" + b"\x01" * 90, "is a PNG image"),
        (b"\0" * 4096, "is full of zeros: the download was broken off"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else "",
)
def test_what_holds_no_weights_is_named(name: str, content: bytes, says: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {says}") as error:
        kind_of(tmp_path / name)
    assert "\n" not in str(error.value)


def test_archives_of_files_are_not_archives_of_torch(tmp_path: Path):
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.write(tmp_path / "model.safetensors", "model.safetensors")
    with pytest.raises(ValueError, match=r"is a zip archive of model\.safetensors: unpack it first"):
        kind_of(tmp_path / "a.ckpt")
    with tarfile.open(tmp_path / "b.ckpt", "w") as tar:
        tar.add(tmp_path / "model.safetensors", "model.safetensors")
    with pytest.raises(ValueError, match="is a tar archive: unpack it first"):
        kind_of(tmp_path / "b.ckpt")


def test_a_program_is_not_run(tmp_path: Path):
    """The records by which torch would hand the file to its own interpreter."""
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/__torch__.py"):
            archive.writestr(name, b"")
    with pytest.raises(ValueError, match="is a program of TorchScript, which is not run"):
        kind_of(tmp_path / "a.pt")
