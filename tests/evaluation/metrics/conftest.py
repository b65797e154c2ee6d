import pytest
import torch

from ldm.data.emoji import EmojiData

COLOURS = {"red": [200, 40, 50], "blue": [60, 110, 210], "black": [20, 20, 20]}


class Perfect:
    """A sampler that draws exactly the image that a caption names."""

    def __init__(self, data, change=lambda caption: caption):
        self.data, self.change = data, change
        self.pairs = {data.caption(k, c): (k, c) for k in range(len(data.names)) for c in range(4)}

    def images(self, captions, seed):
        keys, colours = torch.tensor([self.pairs[self.change(caption)] for caption in captions]).T
        return ((self.data.render(keys, colours) + 1.0) * 127.5).round().byte()


@pytest.fixture(scope="session")
def emoji():
    return EmojiData(
        batch_size=8,
        image_size=16,
        subset="demo",
        backgrounds=COLOURS,
        background_probability=0.5,
        held_out_pairs=0.2,
    )


@pytest.fixture(scope="session")
def sampler(emoji):
    """Factory of samplers: sampler() draws what is asked for, sampler(change) what `change` makes of it."""
    return lambda *change: Perfect(emoji, *change)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "samples").mkdir()
    return tmp_path
