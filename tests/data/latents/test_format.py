"""A stored latent is read back as it was, or is an error."""

import pytest
import torch

from ldm.checkpoints.serialization import packed
from ldm.data.decode import BadSample
from ldm.data.latents.format import About, about, pack, unpack

GOOD = About(cache="c0ffee", key=2**62, size=(48, 80))
TENSORS = {"mean": torch.arange(6.0).reshape(1, 2, 3), "std": torch.full((1, 2, 3), 0.5, dtype=torch.float16)}


def test_tensors_and_metadata_lead_there_and_back():
    data = pack(TENSORS, GOOD)
    found = unpack(data, "c0ffee")
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    assert about(data) == GOOD
    assert pack(TENSORS, GOOD) == data


def test_a_bad_sample_holds_its_cause_in_place_of_tensors():
    bad = About(cache="c0ffee", key=1, size=(0, 0), bad="no caption")
    assert about(pack({}, bad)) == bad
    with pytest.raises(BadSample, match=r"^no caption$"):
        unpack(pack({}, bad), "c0ffee")


def test_another_cache_is_an_error_and_no_bad_sample():
    with pytest.raises(ValueError, match=r"made with other settings than latents\.json"):
        unpack(pack(TENSORS, GOOD), "decaf")


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_changed_byte_anywhere_makes_a_bad_sample(position: int):
    data = bytearray(pack(TENSORS, GOOD))
    data[position] ^= 4
    with pytest.raises(BadSample, match="damaged latent"):
        unpack(bytes(data), "c0ffee")


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"key": 1, "cache": "", "bad": "", "width": 3}, "lacks or garbles 'height'"),
        ({"key": "one", "cache": "", "bad": "", "height": 2, "width": 3}, "lacks or garbles .*'one'"),
    ],
)
def test_metadata_that_are_not_whole_are_an_error(facts: dict[str, str | int], says: str):
    with pytest.raises(ValueError, match=says):
        about(packed({}, facts))
