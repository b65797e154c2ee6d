import pytest

from ldm.evaluation.metrics.references import ReferenceData


def test_data_without_references_lack_the_protocol(emoji):
    assert isinstance(emoji, ReferenceData)
    assert not isinstance(object(), ReferenceData)


@pytest.mark.parametrize("lacking", ["training_captions", "reference_images", "reference_captions"])
def test_each_member_is_needed(lacking):
    members = {"training_captions", "reference_images", "reference_captions"} - {lacking}
    assert not isinstance(type("Partial", (), dict.fromkeys(members, lambda self: []))(), ReferenceData)


def test_each_caption_has_its_image(emoji):
    assert len(emoji.reference_images()) == len(emoji.reference_captions())
    references = range(len(emoji.reference_images()))
    assert all(index in references for index, _ in emoji.training_captions())
