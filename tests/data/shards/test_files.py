"""Shards by pattern, and copies of remote ones in a cache of bounded size."""

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
