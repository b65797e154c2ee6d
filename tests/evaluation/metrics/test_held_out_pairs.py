import pytest

from ldm.data.emoji import EmojiData
from ldm.evaluation.metrics.held_out_pairs import HeldOutPairs, PairData


def test_a_perfect_model_draws_emoji_and_background(emoji, sampler, folder):
    score = HeldOutPairs(limit=40)(sampler(), emoji, folder)
    assert score.values == {"n": 40, "background": 1.0, "emoji": 1.0}
    assert (folder / "samples" / "held_out_pairs.png").is_file()


def test_the_right_emoji_on_the_wrong_background_is_detected(emoji, sampler, folder):
    white = sampler(lambda caption: caption.split(" on a ")[0])
    assert HeldOutPairs(limit=40)(white, emoji, folder).values["background"] == 0.0


def test_data_that_hold_out_nothing_are_refused(sampler, folder):
    data = EmojiData(batch_size=8, image_size=16, subset="demo")
    assert isinstance(data, PairData)
    with pytest.raises(ValueError, match="hold out no pairs"):
        HeldOutPairs()(sampler(), data, folder)
