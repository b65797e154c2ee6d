"""CIFAR-10 from torchvision's folder or archive, or from tar shards; a clear error without any."""

import hashlib
import io
import os
import pickle
import tarfile
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.cifar import ARCHIVE, CLASSES, CIFAR10Data

PER_FILE = 4


def digest(data):
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def archive(monkeypatch):
    """A tiny archive in torchvision's format, whose checksums torchvision is told."""
    from torchvision.datasets import CIFAR10

    def pack(i):
        generator = np.random.default_rng(i)
        data = generator.integers(0, 256, (PER_FILE, 3072), np.uint8)
        return pickle.dumps({"data": data, "labels": [(i + k) % 10 for k in range(PER_FILE)]})

    files = {f"data_batch_{i}": pack(i) for i in range(1, 6)} | {"test_batch": pack(9)}
    files["batches.meta"] = pickle.dumps({"label_names": list(CLASSES)})
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    monkeypatch.setattr(CIFAR10, "tgz_md5", digest(file.getvalue()))
    monkeypatch.setattr(
        CIFAR10, "train_list", [[f"data_batch_{i}", digest(files[f"data_batch_{i}"])] for i in range(1, 6)]
    )
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", digest(files["test_batch"])]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": digest(files["batches.meta"])}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return file.getvalue(), files


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def load(root, **changes):
    return CIFAR10Data(**{"root": str(root), "batch_size": 4, "flip": 0.0, **changes})


def write_shard(path, n=6, size=32, label=str, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for i in range(n):
            file = io.BytesIO()
            Image.new("RGB", (size, size), (20 * i, 0, 0)).save(file, "PNG")
            for extension, data in (("png", file.getvalue()), ("cls", label(i).encode())):
                info = tarfile.TarInfo(f"{i:05d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def check(data, files):
    images, captions = data.held()
    assert images.shape == (5 * PER_FILE, 3, 32, 32)
    first = pickle.loads(files["data_batch_1"])
    assert torch.equal(images[:PER_FILE], torch.from_numpy(first["data"]).view(PER_FILE, 3, 32, 32))
    assert captions[:PER_FILE] == [f"a photo of a {CLASSES[label]}" for label in first["labels"]]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("download", [True, False])
def test_an_archive_is_unpacked_without_a_network_and_then_found_as_a_folder(tmp_path, archive, download):
    content, files = archive
    (tmp_path / ARCHIVE).write_bytes(content)
    check(load(tmp_path, download=download), files)
    (tmp_path / ARCHIVE).unlink()
    check(load(tmp_path, download=download), files)


@pytest.mark.usefixtures("offline")
def test_a_damaged_archive_is_an_error(tmp_path, archive):
    (tmp_path / ARCHIVE).write_bytes(archive[0][:-50])
    with pytest.raises(ValueError, match=rf"{ARCHIVE}: damaged, its MD5 is not [0-9a-f]{{32}}"):
        load(tmp_path, download=False).held()
    with pytest.raises(FileNotFoundError, match="nor could it be fetched"):
        load(tmp_path).held()


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("download", "words"), [(True, "nor could it be fetched"), (False, "nor may it be fetched")]
)
def test_without_data_and_network_the_error_says_what_to_do(tmp_path, download, words):
    with pytest.raises(FileNotFoundError, match=rf"neither in {tmp_path}/a {words}") as error:
        load(tmp_path / "a", download=download).held()
    assert "\n" not in str(error.value)


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    write_shard(tmp_path / "x-train-0001.tar", n=2, mode="w", label=lambda i: str(9 - i))
    write_shard(tmp_path / "x-train-0000.tar.gz", n=3)
    write_shard(tmp_path / "x-test-0000.tar.gz", n=5)
    images, captions = load(tmp_path).held()
    assert captions == [f"a photo of a {CLASSES[k]}" for k in (0, 1, 2, 9, 8)]
    assert images[:, 0, 0, 0].tolist() == [0, 20, 40, 0, 20]


def test_a_shard_cut_short_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "x-train-0000.tar.gz"
    write_shard(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{path}: damaged tar shard: "):
        load(tmp_path).held()


@pytest.mark.parametrize("label", ["10", "cat", ""])
def test_a_label_that_is_no_class_is_an_error_that_names_the_sample(tmp_path, label):
    write_shard(tmp_path / "train.tar", mode="w", label=lambda i: "3" if i < 4 else label)
    with pytest.raises(ValueError, match=rf"train\.tar:00004: .*cls in 0\.\.9, got '{label}'"):
        load(tmp_path).held()


def test_images_of_another_size_are_refused(tmp_path):
    write_shard(tmp_path / "train.tar", mode="w", size=16)
    with pytest.raises(ValueError, match=r"train\.tar:00000: images must be 32x32, got \(16, 16\)"):
        load(tmp_path).held()
    with pytest.raises(ValueError, match=r"image_size must be 32, got 64"):
        load(tmp_path, image_size=64)


@pytest.mark.slow
@pytest.mark.skipif(
    "LDM_TEST_CIFAR10" not in os.environ, reason="LDM_TEST_CIFAR10 names no folder with CIFAR-10"
)
def test_the_real_thing_has_5000_images_of_each_class():
    data = load(os.environ["LDM_TEST_CIFAR10"], download=False)
    images, captions = data.held()
    assert images.shape == (50_000, 3, 32, 32)
    assert {captions.count(f"a photo of a {name}") for name in CLASSES} == {5000}
    torch.testing.assert_close(images.float().mean() / 255.0, torch.tensor(0.473), atol=0.01, rtol=0.0)
