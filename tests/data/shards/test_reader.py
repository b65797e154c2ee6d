"""Parts of samples are read as they were stored; a sample without caption or image is a bad one."""

import json

import pytest

from ldm.data.decode import BadSample
from ldm.data.laion import LaionData
from ldm.data.shards.files import ShardFiles
from ldm.data.shards.reader import SampleReader, shard_caption
from ldm.data.shards.scan import build_index


def test_a_fallback_is_taken_where_there_is_no_caption(making, tmp_path):
    making.write(tmp_path / "a.tar", 0, 8, without={3})
    stream = LaionData(shards=str(tmp_path / "a.tar"), batch_size=8, image_size=16, fallback="title")
    assert sorted(stream.batch(0)["caption"]) == sorted(
        ["title 3", *(f"photo {i}" for i in range(8) if i != 3)]
    )
    titles = LaionData(shards=str(tmp_path / "a.tar"), batch_size=8, image_size=16, caption="title")
    assert sorted(titles.captions()) == [f"title {i}" for i in range(8)]


@pytest.fixture
def reader(making, tmp_path):
    """Factory of readers of three samples, of which the second has no caption."""
    making.write(tmp_path / "a.tar", 0, 3, without={1})
    index = build_index([str(tmp_path / "a.tar")])
    return lambda caption="txt", fallback=None, max_pixels=10**6: SampleReader(
        index.samples, ShardFiles(index.shards), caption, fallback, max_pixels
    )


def test_parts_are_the_stored_bytes_and_none_where_there_are_none(making, reader):
    assert reader().part(0, "image") == making.png(0, making.SIZES[0])
    assert json.loads(reader().part(2, "json"))["title"] == "title 2"
    assert reader().part(1, "text") is None


def test_a_caption_that_is_nowhere_makes_a_bad_sample(reader):
    assert reader().caption(0) == "photo 0"
    assert reader("title").caption(1) == "title 1"
    for found in (reader(), reader("absent"), reader("absent", "absent")):
        with pytest.raises(BadSample, match=r"^no caption$"):
            found.caption(1)


def test_an_image_has_its_stored_size_and_the_limit_of_pixels_holds(reader):
    assert reader().image(0, (16, 16)).size == (32, 64)
    with pytest.raises(BadSample, match="too many pixels"):
        reader(max_pixels=32 * 64 - 1).image(0, (16, 16))


def test_a_profile_spends_time_on_each_stage_and_skips_bad_images(reader):
    spent = reader().profile([0, 1, 2], (16, 16))
    assert list(spent) == ["reading", "decoding", "cropping"]
    assert min(spent.values()) > 0
    assert set(reader(max_pixels=1).profile([0, 1, 2], (16, 16)).values()) == {0.0}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_are_read_as_every_editor_writes_them(encoding):
    assert shard_caption("café\r\nrot\r\n".encode(encoding)) == "café\nrot"
    with pytest.raises(BadSample, match="caption is no Unicode text"):
        shard_caption("café".encode("cp1252"))
