import pytest

from ldm.evaluation.metrics.held_out import HeldOut


def test_a_caption_is_right_when_its_own_image_is_nearest(emoji, sampler, folder):
    swapped = {"purple square": "pizza"}
    model = sampler(lambda caption: swapped.get(caption, caption))
    score = HeldOut(captions=["green heart", "purple square"])(model, emoji, folder)
    assert score.values == [
        {"caption": "green heart", "nearest": "green heart", "correct": True},
        {"caption": "purple square", "nearest": "pizza", "correct": False},
    ]
    assert score.headlines[0].text == "1 of 2"
    assert score.pictures[0].verdicts == [(True, "right"), (False, "nearest: pizza")]
    assert (folder / "samples" / "held_out.png").is_file()


def test_a_caption_that_the_data_lack_is_named(emoji, sampler, folder):
    with pytest.raises(ValueError, match="captions must have a reference image, got 'a cat'"):
        HeldOut(captions=["a cat"])(sampler(), emoji, folder)


def test_no_captions_are_refused():
    with pytest.raises(ValueError, match="captions must name at least one"):
        HeldOut(captions=[])
