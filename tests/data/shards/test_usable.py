"""Data of which nothing can be used is refused with what was found and the key to set."""

import io
import json
import tarfile

import pytest

from ldm.data.laion import LaionData
from ldm.data.shards.filters import Filters


def write(path, names, making):
    """A shard of members in this order; images are PNGs."""
    with tarfile.open(path, "w") as tar:
        for name in names:
            data = making.png(0, (16, 16)) if name.endswith(("jpg", "png")) else b"text"
            if name.endswith("json"):
                data = json.dumps({"width": 16, "caption": "a cat", "url": "u"}).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def load(tmp_path, **options):
    return LaionData(shards=str(tmp_path / "*.tar"), batch_size=2, image_size=16, **options)


LAYOUTS = {
    "dots": [f"IMG_2.{i} (v1.0).{e}" for i in range(4) for e in ("jpg", "txt")],
    "apart": [f"{i}.{e}" for e in ("jpg", "txt") for i in range(4)],
    "json": [f"{i}.{e}" for i in range(4) for e in ("jpg", "json")],
    "texts": [f"{i}.txt" for i in range(4)],
    "images": [f"{i}.jpg" for i in range(4)],
    "nothing": [],
}


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("dots", r"names: IMG_2\.0 \(v1\.0\)\.jpg.*first dot.* 1 of 0 \(v1\.0\)\.jpg.*data\.shards"),
        ("apart", r"none of 4 samples has a caption \(txt\).*0\.jpg.* must follow one another in data"),
        ("json", r"fields of their json: caption, url; set data\.caption=caption"),
        ("texts", r"no sample is left to train on: none of 4 has an image.*0\.txt.* 4 of txt"),
        ("images", r"first names: 0\.jpg, .*set data\.shards to shards with a \.txt beside each image"),
        ("nothing", r"none of 0 has an image .* first names: none; .* none; set"),
    ],
)  # fmt: skip
def test_a_layout_that_gives_nothing_is_refused_with_the_reason(layout, says, making, tmp_path):
    write(tmp_path / "0.tar", LAYOUTS[layout], making)
    with pytest.raises(ValueError, match=says):
        load(tmp_path).check_usable()


def test_the_key_that_is_named_is_the_remedy(making, tmp_path):
    write(tmp_path / "0.tar", LAYOUTS["json"], making)
    for options in ({"caption": "caption"}, {"fallback": "caption"}):
        load(tmp_path, **options).check_usable()
        assert set(load(tmp_path, **options).batch(0)["caption"]) == {"a cat"}
    with pytest.raises(ValueError, match=r"none of 4 samples has a caption \(title\).*data\.caption=caption"):
        load(tmp_path, caption="title").check_usable()


def test_filters_and_damage_that_leave_nothing_are_told_apart(making, tmp_path):
    making.write(tmp_path / "a.tar", 0, 4, broken=range(4))
    with pytest.raises(
        ValueError, match=r"none of 4 samples from all over data\.shards .*'damaged image': 4"
    ):
        load(tmp_path).check_usable()
    with pytest.raises(ValueError, match=r"no sample is left to train on: data\.filters leave none of 4"):
        load(tmp_path, filters=Filters(min_size=99)).check_usable()
    making.write(tmp_path / "a.tar", 0, 4, broken=range(3))
    load(tmp_path).check_usable()


def test_bad_shards_are_counted_and_skipped_up_to_a_limit(making, tmp_path, caplog):
    making.write(tmp_path / "a.tar", 0, 6)
    (tmp_path / "b.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 2 shards .*max_bad_fraction is 0\.05: \S*b\.tar is empty$"):
        load(tmp_path).check_usable()
    data = load(tmp_path, max_bad_fraction=0.5)
    data.check_usable()
    assert sorted(n for step in range(3) for n in making.numbers(data.batch(step))) == list(range(6))
    assert "b.tar is empty; 0 samples are used" in caplog.text
    (tmp_path / "b.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:-9000])
    load(tmp_path).check_usable()
    assert "b.tar has no end of the archive: cut short; 5 samples" in caplog.text
