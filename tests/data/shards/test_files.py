"""Shards by pattern, and copies of remote ones in a cache of bounded size."""

import os

import pytest
import torch

from ldm.data.laion import LaionData
from ldm.data.shards.files import ShardFiles, expand
from ldm.data.shards.index import Shard


def test_remote_shards_are_copied_once_and_the_oldest_make_room(making, folder, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in sorted(folder.glob("*.tar")):
        memory.pipe(f"/laion/{path.name}", path.read_bytes())
    options = {"batch_size": 8, "image_size": 16, "lanes": 2, "window": 5, "seed": 3}
    cache = tmp_path / "cache"
    remote = LaionData(shards="memory://laion/{00000..00002}.tar", cache=str(cache), **options)
    for step in range(4):
        assert remote.batch(step)["caption"] == making.laion(folder).batch(step)["caption"]
        assert torch.equal(remote.batch(step)["key"], making.laion(folder).batch(step)["key"])
    assert len(list(cache.glob("*.tar"))) == 3
    sizes = [p.stat().st_size for p in cache.glob("*.tar")]
    small = ShardFiles(remote.index.shards, tmp_path / "small", cache_bytes=2 * max(sizes))
    for shard in (0, 1, 2, 0):
        small.read(shard, 0, 512)
        small.close()
    assert sum(p.stat().st_size for p in (tmp_path / "small").glob("*")) <= 2 * max(sizes)
    with pytest.raises(ValueError, match=r"cache must be a folder"):
        ShardFiles([Shard(path="memory://laion/00000.tar", size=1, sha256="", samples=1)]).read(0, 0, 1)


def test_patterns_are_expanded(folder):
    assert expand(str(folder / "*.tar")) == sorted(str(p) for p in folder.glob("*.tar"))
    assert expand(["s3://b/{00..02}.tar", "x.tar"]) == [
        "s3://b/00.tar",
        "s3://b/01.tar",
        "s3://b/02.tar",
        "x.tar",
    ]


def test_wildcards_stand_for_folders_and_hidden_files_are_left_out(tmp_path):
    names = ["0.tar", "a/0.tar", "a/b/1.tar", "c/0.tar", "c/[1]/2.tar"]
    for name in (*names, "._0.tar", ".ipynb_checkpoints/0.tar", "__MACOSX/0.tar", "a/0.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern):
        return [path.removeprefix(f"{tmp_path}/") for path in expand(f"{tmp_path}/{pattern}")]

    assert found("*.tar") == ["0.tar"]
    assert found("*/*.tar") == ["a/0.tar", "c/0.tar"]
    assert found("**/*.tar") == found("**/?.tar") == sorted(names)
    assert found("{a,c}/*.tar") == ["a/0.tar", "c/0.tar"]
    assert found("{a/b/,}[01].tar") == ["0.tar", "a/b/1.tar"]
    assert found("c/[1]/2.tar") == ["c/[1]/2.tar"]
    assert found(".ipynb_checkpoints/*.tar") == [".ipynb_checkpoints/0.tar"]
    with pytest.raises(
        ValueError, match=rf"^shards must be tar files, got the folder {tmp_path}: .*/\*\.tar"
    ):
        expand(str(tmp_path))


def test_wildcards_of_remote_stores_are_expanded():
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name in ("a/0.tar", "b/0.tar"):
        memory.pipe(f"/wild/{name}", b"x")
    assert [path.rpartition("/wild/")[2] for path in expand("memory://wild/*/*.tar")] == [
        "a/0.tar",
        "b/0.tar",
    ]


def test_a_shard_that_changes_while_it_is_read_is_noticed(making, tmp_path):
    """Of the same size and time: the header in front of a part tells."""
    path = tmp_path / "a.tar"
    making.write(path, 0, 6, sizes=[(16, 16)])
    stream = LaionData(shards=str(path), batch_size=2, image_size=16)
    assert stream.reader.caption(3) == "photo 3"
    status = path.stat()
    making.write(path, 3, 6, sizes=[(16, 16)])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    for read in (stream.reader.caption, LaionData(shards=str(path), batch_size=2).reader.caption):
        with pytest.raises(ValueError, match=r"a\.tar has changed while it was in use: start again"):
            read(3)


def test_a_remote_shard_that_changed_is_not_mixed_with_its_copy(making, tmp_path):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    making.write(tmp_path / "a.tar", 0, 3)
    memory.pipe("/changed/a.tar", (tmp_path / "a.tar").read_bytes())
    options = {"shards": "memory://changed/a.tar", "batch_size": 2, "index": str(tmp_path / "index")}
    stream = LaionData(cache=str(tmp_path / "cache"), **options)
    assert stream.reader.caption(0) == "photo 0"
    making.write(tmp_path / "a.tar", 5, 3)
    memory.pipe("/changed/a.tar", (tmp_path / "a.tar").read_bytes())
    with pytest.raises(ValueError, match="has changed since it was indexed: digest=content indexes it again"):
        LaionData(cache=str(tmp_path / "other"), **options).reader.caption(0)
    again = LaionData(cache=str(tmp_path / "cache"), digest="content", **options)
    assert again.reader.caption(0) == "photo 5"
