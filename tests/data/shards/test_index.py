"""The index says where everything lies: what is read at its offsets is what was written."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.data.shards.index import OldIndex, ShardIndex, identities, key_of
from ldm.data.shards.scan import build_index, index_shard


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write(path, count, start=0, skip=()):
    with tarfile.open(path, "w") as tar:
        for i in range(start, start + count):
            said = {
                "original_width": 100 + i,
                "original_height": 50,
                "aesthetic": 5.5,
                "LANGUAGE": "en",
                "NSFW": "UNLIKELY",
            }
            parts = {
                "jpg": b"J" * (10 + i),
                "txt": f"caption {i}".encode(),
                "json": json.dumps(said).encode(),
            }
            for extension, data in parts.items():
                if (i, extension) not in skip:
                    add(tar, f"{i:09d}.{extension}", data)
    return str(path)


@pytest.fixture
def shards(tmp_path):
    return [write(tmp_path / f"{n:05d}.tar", 5, 5 * n) for n in range(3)]


def test_what_lies_at_its_offsets_is_what_was_written(shards):
    index = build_index(shards)
    assert [shard.samples for shard in index.shards] == [5, 5, 5]
    for i, row in enumerate(index.samples):
        data = Path(index.shards[row["shard"]].path).read_bytes()
        text = data[row["text_offset"] : row["text_offset"] + row["text_size"]]
        image = data[row["image_offset"] : row["image_offset"] + row["image_size"]]
        assert (text.decode(), image) == (f"caption {i}", b"J" * (10 + i))
        assert (row["width"], row["height"], row["aesthetic"]) == (100 + i, 50, 5.5)
        assert (row["language"], row["nsfw"]) == (b"en", b"UNLIKELY")
        assert np.isnan(row["watermark"])
    digests = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in shards]
    assert [shard.sha256 for shard in index.shards] == digests


def test_it_is_written_whole_and_mapped_when_read(shards, tmp_path):
    index = build_index(shards)
    index.save(tmp_path / "index")
    again = ShardIndex.load(tmp_path / "index")
    assert again.shards == index.shards
    assert isinstance(again.samples, np.memmap)
    assert np.array_equal(again.samples.view("u1"), index.samples.view("u1"))
    with pytest.raises(FileExistsError):
        index.save(tmp_path / "index")


def test_keys_belong_to_file_and_sample_and_not_to_the_place(shards, tmp_path):
    index = build_index(shards)
    assert len(set(index.samples["key"].tolist())) == 15
    assert index.samples["key"][7] == key_of("00001.tar", "000000007")
    assert (index.samples["key"] >= 0).all()


def test_missing_parts_have_no_size(tmp_path):
    _, table = index_shard(write(tmp_path / "a.tar", 3, skip={(1, "txt"), (2, "json")}), 0)
    assert table["text_size"].tolist() == [9, -1, 9]
    assert np.isnan(table["width"]).tolist() == [False, False, True]


@pytest.mark.parametrize("cut", [0.35, 0.62, 0.9])
def test_a_shard_that_was_cut_short_gives_what_is_whole(cut, tmp_path):
    path = tmp_path / "a.tar"
    write(path, 20)
    whole = path.read_bytes()
    end = whole.rindex(b"caption 19") + 2048
    path.write_bytes(whole[: int(cut * end)])
    shard, table = index_shard(str(path), 0)
    assert 0 < shard.samples < 20
    assert shard.damage
    assert len(table) == shard.samples
    _, all_ = index_shard(write(tmp_path / "b.tar", 20), 0)
    assert np.array_equal(table["text_offset"], all_["text_offset"][: len(table)])


def test_what_is_no_set_of_shards_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tar shards found"):
        build_index([])
    with pytest.raises(FileNotFoundError, match=r"no tar shard at .*a.tar"):
        build_index([str(tmp_path / "a.tar")])


def test_an_index_that_is_not_whole_is_refused(shards, tmp_path):
    with pytest.raises(FileNotFoundError, match="no index of shards"):
        ShardIndex.load(tmp_path)
    build_index(shards).save(tmp_path / "index")
    about = tmp_path / "index" / "index.json"
    for text in ("{", '{"version": 99}', '{"version": 3, "shards": []}'):
        about.write_text(text)
        with pytest.raises(ValueError, match=r"remove it"):
            ShardIndex.load(tmp_path / "index")


def test_hidden_members_are_no_samples(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in (
            "._0.jpg",
            "0.jpg",
            "._0.txt",
            "0.TXT",
            "__MACOSX/._0.jpg",
            "./1.jpg",
            ".b/2.jpg",
            "./1.txt",
        ):
            add(tar, name, b"x" * 7)
    _, table = index_shard(str(tmp_path / "a.tar"), 0)
    assert table["text_size"].tolist() == [7, 7]
    assert table["image_size"].tolist() == [7, 7]


def test_photos_on_their_side_have_the_size_that_is_seen(tmp_path):
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = 8
    Image.new("RGB", (30, 20)).save(out, "JPEG", exif=exif)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.jpg", out.getvalue())
        add(tar, "0.json", json.dumps({"width": 30, "height": 20}).encode())
    _, table = index_shard(str(tmp_path / "a.tar"), 0)
    for side, value in (("width", 20), ("height", 30)):
        assert table[side].tolist() == table[f"stored_{side}"].tolist() == [value]


def test_equal_names_in_two_folders_are_two_shards_and_a_flat_folder_needs_no_folder():
    flat = ["/d/0.tar", "/d/1.tar"]
    assert identities(flat) == ["0.tar", "1.tar"] == identities(["s3://b/0.tar", "s3://b/1.tar"])
    assert identities(["/d/a/0.tar", "/d/b/0.tar", "/d/b/1.tar"]) == ["a/0.tar", "b/0.tar", "1.tar"]
    assert identities(["a/x/0.tar", "a/y/0.tar"]) == identities(["/m/x/0.tar", "/m/y/0.tar"])
    assert identities(["/d/0.tar", "/d/b/0.tar"]) == ["0.tar", "b/0.tar"]
    assert identities(["/d/0.tar"]) == ["0.tar"]


def test_an_index_takes_the_place_of_another(shards, tmp_path):
    build_index(shards[:1]).save(tmp_path / "index")
    build_index(shards).save(tmp_path / "index", replace=True)
    assert len(ShardIndex.load(tmp_path / "index").shards) == 3
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["index"]
    about = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps(about | {"version": 2}))
    with pytest.raises(OldIndex, match="is of version 2, not 3"):
        ShardIndex.load(tmp_path / "index")
