import pytest
import torch
from PIL import Image

from ldm.data.emoji import EmojiData
from ldm.evaluation.scores import score, spread

COLOURS = {"red": [200, 40, 50], "blue": [60, 110, 210], "black": [20, 20, 20]}


@pytest.fixture(scope="module")
def data():
    return EmojiData(
        batch_size=8,
        image_size=16,
        subset="demo",
        backgrounds=COLOURS,
        background_probability=0.5,
        held_out_pairs=0.2,
    )


def perfect(data):
    """A model that draws exactly what it is told."""
    captions = {data.caption(k, c): (k, c) for k in range(len(data.names)) for c in range(4)}

    def sample_images(prompts, seed):
        keys, colours = torch.tensor([captions[p] for p in prompts]).T
        return ((data.render(keys, colours) + 1.0) * 127.5).round().byte()

    return sample_images


def settings(**changes):
    values = {"seed": 0, "prompts": ["pizza"], "retrieval": None, "held_out": [], "held_out_pairs": 0}
    return values | changes


def test_a_perfect_model_scores_one_everywhere(data, tmp_path):
    cfg = settings(held_out=["purple square"], held_out_pairs=40)
    result = score(cfg, perfect(data), data, tmp_path)
    assert result["retrieval"]["top1"] == 1.0
    assert result["retrieval"]["n"] == len(data.training_keys())
    assert result["retrieval"]["references"] == len(data.names)
    assert result["retrieval"]["misses"] == []
    assert result["held_out"] == [{"caption": "purple square", "nearest": "purple square", "correct": True}]
    assert result["held_out_pairs"] == {"n": 40, "background": 1.0, "emoji": 1.0}
    for name in ("prompts", "all", "held_out", "held_out_pairs"):
        with Image.open(tmp_path / "samples" / f"{name}.png") as image:
            assert image.size > (16, 16)


def test_a_model_that_ignores_the_prompt_scores_badly_and_is_named(data, tmp_path):
    def pizza(prompts, seed):
        return perfect(data)(["pizza"] * len(prompts), seed)

    result = score(settings(held_out_pairs=40), pizza, data, tmp_path)
    assert result["retrieval"]["top1"] == round(1 / len(data.training_keys()), 4)
    assert all(miss["got"] == "pizza" for miss in result["retrieval"]["misses"])
    assert result["held_out_pairs"]["background"] == 0.0


def test_the_right_emoji_on_the_wrong_background_is_told_apart(data, tmp_path):
    def white(prompts, seed):
        return perfect(data)([p.split(" on a ")[0] for p in prompts], seed)

    pairs = score(settings(held_out_pairs=40), white, data, tmp_path)["held_out_pairs"]
    assert pairs["background"] == 0.0


def test_spread_takes_items_evenly():
    assert spread(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert spread([1, 2], None) == spread([1, 2], 9) == [1, 2]
