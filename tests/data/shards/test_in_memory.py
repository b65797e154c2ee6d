"""Tar shards are read whole; a damaged one is an error, never less data."""

import gzip
import io
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from ldm.data.shards.in_memory import decode_image, read_shards


def png(value, size=4):
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 4), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def noise():
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def archive(n=4, prefix=""):
    """A tar of n samples png + txt, as bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for i in range(n):
            for extension, data in (("png", png(i)), ("txt", f"caption {i}".encode())):
                info = tarfile.TarInfo(f"{prefix}{i:04d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def read(path):
    return list(read_shards([path]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
@pytest.mark.parametrize("prefix", ["", "./", "folder/", "v1.0/"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_samples_are_what_webdataset_reads(tmp_path, prefix, pack):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(pack(archive(prefix=prefix)))
    if pack is bytes:
        path = path.rename(tmp_path / "a.tar")
    peer = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [(s["png"], s["txt"]) for s in read(path)] == [(s["png"], s["txt"]) for s in peer]
    assert len(peer) == 4


def test_samples_say_where_they_come_from(tmp_path):
    (tmp_path / "a.tar").write_bytes(archive(2, "x/"))
    assert [s["__key__"].decode() for s in read(tmp_path / "a.tar")] == [
        f"{tmp_path}/a.tar:x/0000",
        f"{tmp_path}/a.tar:x/0001",
    ]


def test_a_shard_cut_anywhere_is_an_error_that_names_it(tmp_path):
    whole, path = archive(), tmp_path / "cut.tar"
    content = 4 * 4 * 512  # headers and data of eight files; zeros follow
    for length in range(0, content + 512, 128):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"^{path}: damaged tar shard: .*$"):
            read(path)
    path.write_bytes(whole[: content + 1024])
    assert len(read(path)) == 4


def test_a_damaged_header_is_an_error(tmp_path):
    path = tmp_path / "a.tar"
    for position in range(0, 4 * 4 * 512, 1024):  # the checksum covers every byte of a header
        damaged = bytearray(archive())
        damaged[position + 124] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged tar shard"):
            read(path)


def test_a_damaged_gzip_is_an_error(tmp_path):
    packed, path = gzip.compress(archive(), mtime=0), tmp_path / "a.tar.gz"
    for position in range(10, len(packed), 7):
        damaged = bytearray(packed)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged tar shard"):
            read(path)
        path.write_bytes(packed[:position])
        with pytest.raises(ValueError, match="damaged tar shard"):
            read(path)


def test_no_shards_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tar shards found"):
        list(read_shards([]))
    with pytest.raises(FileNotFoundError, match=rf"no tar shard at {tmp_path}/b\.tar"):
        read(tmp_path / "b.tar")


def test_a_decoded_image_keeps_its_transparency():
    assert decode_image(png(7), "RGBA", "a").tolist() == [[[7] * 4] * 4] * 4


@pytest.mark.parametrize(
    "data", [b"", b"no image", png(3)[:50], noise()[:900]], ids=["empty", "text", "header", "half"]
)
def test_a_damaged_image_is_an_error_that_names_it(data):
    with pytest.raises(ValueError, match=r"^a\.tar:0007: damaged image: "):
        decode_image(data, "RGB", "a.tar:0007")


def test_a_flipped_bit_in_a_png_is_an_error():
    data = bytearray(png(3))
    data[45] ^= 0x10
    with pytest.raises(ValueError, match="damaged image"):
        decode_image(bytes(data), "RGB", "a")
