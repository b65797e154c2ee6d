"""The first sample of a shard, without an index; a shard that begins otherwise is an error."""

import tarfile

import pytest

from ldm.data.shards.first_sample import FirstSample, first_sample


@pytest.fixture
def path(making, tmp_path):
    making.write(tmp_path / "a.tar", 7, 2, without={7}, sizes=[(20, 30)])
    return str(tmp_path / "a.tar")


def test_it_is_name_size_and_caption_of_the_first_sample_alone(making, tmp_path):
    making.write(tmp_path / "a.tar", 7, 2, sizes=[(20, 30)])
    expected = FirstSample(name="some/00000007", size=(20, 30), caption="photo 7")
    assert first_sample(str(tmp_path / "a.tar"), 16, "txt", None, 10**6) == expected


def test_the_caption_is_found_where_the_data_looks(path):
    assert first_sample(path, 16, "txt", "title", 10**6).caption == "title 7"
    assert first_sample(path, 16, "title", None, 10**6).caption == "title 7"
    assert first_sample(path, 16, "txt", None, 10**6).caption == ""


def test_a_shard_that_begins_with_no_usable_sample_is_an_error(making, path, tmp_path):
    with pytest.raises(ValueError, match=r"first sample, some/00000007, cannot be used: too many pixels"):
        first_sample(path, 16, "txt", None, 100)
    (tmp_path / "text.tar").write_text("text")
    with pytest.raises(ValueError, match=r"text\.tar: no plain tar file"):
        first_sample(str(tmp_path / "text.tar"), 16, "txt", None, 100)
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(ValueError, match=r"its first sample, none, has no image"):
        first_sample(str(tmp_path / "empty.tar"), 16, "txt", None, 100)
    making.write(tmp_path / "broken.tar", 0, 1, broken={0})
    with pytest.raises(ValueError, match=r"cannot be used: damaged image"):
        first_sample(str(tmp_path / "broken.tar"), 16, "txt", None, 10**6)
    with pytest.raises(FileNotFoundError):
        first_sample(str(tmp_path / "absent.tar"), 16, "txt", None, 100)
