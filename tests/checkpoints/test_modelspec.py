"""Metadata by the modelspec standard."""

import pytest

from ldm.checkpoints.modelspec import image_size_of, prediction_of


@pytest.mark.parametrize(
    ("given", "found"),
    [("epsilon", "eps"), ("v", "v"), ("V_Prediction", "v"), (" eps ", "eps"), ("", None)],
)
def test_the_prediction_is_read_in_every_spelling(given: str, found: str | None):
    assert prediction_of({"modelspec.prediction_type": given}) == found
    assert prediction_of({}) is None


def test_another_prediction_is_refused():
    with pytest.raises(
        ValueError, match=r"modelspec\.prediction_type in its metadata must be epsilon or v .*'x0'"
    ):
        prediction_of({"modelspec.prediction_type": "x0"})


@pytest.mark.parametrize(
    ("given", "found"),
    [("768x768", 768), ("512", 512), ("1024x768", [768, 1024]), ("512, 512", 512), ("large", None)],
)
def test_the_resolution_is_width_times_height(given: str, found: int | list[int] | None):
    assert image_size_of({"modelspec.resolution": given}) == found
