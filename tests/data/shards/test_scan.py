"""Shards that are no tar archives, or not whole ones: what is wrong is named, and what is whole is used."""

import bz2
import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest

from ldm.data.shards.scan import build_index, content_digest, headers_digest, index_shard, state_of


def archive(count=6, times=0, jpg=b"J", said=b'{"width": 10}', **options):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as tar:
        for i in range(count):
            for extension, data in (("jpg", jpg * (900 + i)), ("txt", b"caption %d" % i), ("json", said)):
                info = tarfile.TarInfo(f"{i:09d}.{extension}")
                info.size, info.mtime = len(data), times
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def scanned(tmp_path, data):
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    return index_shard(str(path), 0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>" + b"a" * 3000, r"is a web page \(HTML\): download the file again"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"a git-lfs pointer, .* `git lfs pull`"),
        (bz2.compress(archive()), "is packed with bzip2: unpack it first"),
        (gzip.compress(archive()), "is packed with gzip: unpack it first"),
        (lzma.compress(archive()), "is packed with xz: unpack it first"),
        (b"\x28\xb5\x2f\xfd" + bytes(99), "is packed with zstd: unpack it first"),
        (b"Service unavailable", "is no tar archive"),
        (np.random.default_rng(0).bytes(5000), "is no tar archive"),
        (archive()[:300], "is no tar archive"),
    ],
)  # fmt: skip
def test_what_is_no_archive_is_named_and_holds_nothing(data, says, tmp_path):
    shard, table = scanned(tmp_path, data)
    assert len(table) == shard.samples == 0
    assert shard.size == len(data)
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(shard.damage)


def test_bytes_after_the_end_cost_no_sample(tmp_path):
    whole, table = scanned(tmp_path, archive())
    assert (whole.damage, whole.samples) == ("", 6)
    for rest in (b"junk", bytes(2**21) + b"j", archive()):
        shard, again = scanned(tmp_path, archive() + rest)
        assert shard.damage == "has bytes after the end of the archive, which are not read"
        assert np.array_equal(again.view("u1"), table.view("u1"))
    assert scanned(tmp_path, archive() + bytes(2**21))[0].damage == ""


def test_an_archive_that_is_cut_short_gives_what_is_whole(tmp_path):
    _, table = scanned(tmp_path, archive())
    shard, cut = scanned(tmp_path, archive()[: int(table["image_offset"][3]) + 100])
    assert shard.damage == "is cut short (unexpected end of data)"
    assert np.array_equal(cut["key"], table["key"][:2])  # the third may lack a part


def test_an_archive_without_an_end_lacks_its_last_sample(tmp_path):
    _, table = scanned(tmp_path, archive())
    end = int(table["json_offset"][-1]) + 512
    shard, cut = scanned(tmp_path, archive()[:end])
    assert shard.damage == "has no end of the archive: cut short"
    assert np.array_equal(cut["key"], table["key"][:5])


def test_a_broken_header_in_the_middle_is_no_end(tmp_path):
    """To tarfile it is the end of the archive."""
    _, table = scanned(tmp_path, archive())
    data = bytearray(archive())
    start = int(table["image_offset"][4]) - 512
    data[start : start + 512] = b"\7" * 512
    shard, before = scanned(tmp_path, bytes(data))
    assert shard.damage == f"has a broken header at byte {start}; nothing after it is read"
    assert np.array_equal(before["key"], table["key"][:3])  # the fourth may lack a part


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_headers_are_those_in_front_of_the_parts(form, tmp_path):
    import zlib

    data = archive(count=40, format=form)
    _, table = scanned(tmp_path, data)
    for part in ("image", "text", "json"):
        starts = table[f"{part}_offset"].tolist()
        assert table[f"{part}_header"].tolist() == [zlib.crc32(data[at - 512 : at]) for at in starts]


def test_digests_know_headers_and_json_or_all(tmp_path):
    shard, _ = scanned(tmp_path, archive())
    path = tmp_path / "a.tar"
    assert (headers_digest(shard.path), content_digest(shard.path)) == (shard.headers, shard.sha256)
    assert state_of(shard.path) == (shard.size, shard.modified)
    for options, seen in (({"jpg": b"K"}, False), ({"times": 1}, True), ({"said": b'{"width": 11}'}, True)):
        path.write_bytes(archive(**options))
        assert (headers_digest(shard.path) != shard.headers) == seen
        assert content_digest(shard.path) != shard.sha256
    for data in (archive()[:4000], archive()[:-3000] + b"\7" * 3000):
        damaged, _ = scanned(tmp_path, data)
        assert headers_digest(damaged.path) == damaged.headers


def test_unchanged_shards_are_not_read_again(tmp_path):
    paths = [str(tmp_path / f"{i}.tar") for i in range(3)]
    for i in range(3):
        (tmp_path / f"{i}.tar").write_bytes(archive(count=2 + i))
    known = build_index(paths)
    (tmp_path / "0.tar").unlink()
    (tmp_path / "1.tar").write_bytes(archive(count=7))
    index = build_index(paths, known=known, changed=[1])
    assert [shard.samples for shard in index.shards] == [2, 7, 4]
    assert index.samples["shard"].tolist() == [0] * 2 + [1] * 7 + [2] * 4


def test_names_that_are_no_unicode_have_keys(tmp_path):
    name = b"\xff\xfe".decode(errors="surrogateescape")
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(f"{name}.jpg")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    shard, table = index_shard(str(tmp_path / "a.tar"), 0)
    assert (len(table), shard.extensions) == (1, {"jpg": 1})
