import pytest
from PIL import Image

from ldm.evaluation.metrics.retrieval import Retrieval


def test_a_perfect_model_retrieves_every_image(emoji, sampler, folder):
    score = Retrieval()(sampler(), emoji, folder)
    count = len(emoji.training_keys())
    assert score.values == {
        "top1": 1.0,
        "top5": 1.0,
        "n": count,
        "references": len(emoji.names),
        "misses": [],
    }
    assert [headline.text for headline in score.headlines] == ["100.0%", "100.0%"]
    with Image.open(folder / score.pictures[0].file) as image:
        assert image.size > (16, 16)
        assert len(image.info["prompts"].split("\n")) == count


def test_a_model_that_ignores_the_prompt_misses_all_others(emoji, sampler, folder):
    score = Retrieval()(sampler(lambda caption: "pizza"), emoji, folder)
    assert score.values["top1"] == round(1 / len(emoji.training_keys()), 4)
    assert all(miss["got"] == "pizza" for miss in score.values["misses"])
    assert len(score.tables[1].rows) == len(score.values["misses"])


def test_a_limit_takes_captions_evenly(emoji, sampler, folder):
    assert Retrieval(limit=5)(sampler(), emoji, folder).values["n"] == 5


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="limit must be null or at least 1, got 0"):
        Retrieval(limit=0)
