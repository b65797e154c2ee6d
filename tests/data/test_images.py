"""RGB images with captions in memory: flips and the validation split are functions of (seed, key, visit)."""

import pytest
import torch

from ldm.data.images import CaptionedImages


class Numbered(CaptionedImages):
    """Image k has the value k at the left and 0 at the right."""

    def __init__(self, **changes):
        super().__init__(**{"batch_size": 20, "image_size": 2, "seed": 1, **changes})

    def read(self):
        images = torch.zeros(100, 3, 2, 2, dtype=torch.uint8)
        images[..., 0] = torch.arange(100, dtype=torch.uint8)[:, None, None]
        return images, [f"number {k}" for k in range(100)]


def pixels(batch):
    return ((batch["image"] + 1.0) * 127.5).round().long()


def test_caption_key_and_image_belong_together():
    batch = Numbered().batch(0)
    assert batch["caption"] == [f"number {k}" for k in batch["key"].tolist()]
    assert torch.equal(pixels(batch)[:, 0, 0, 0], batch["key"])


def test_captions_are_the_different_ones():
    assert sorted(Numbered().captions()) == sorted(f"number {k}" for k in range(100))


def test_flips_mirror_and_depend_on_key_and_visit():
    data, key = Numbered(flip=0.5), torch.arange(1, 100)
    mirrored = torch.stack([pixels(data.get(key, visit))[:, 0, 0, 0] == 0 for visit in range(50)])
    assert 0.47 < mirrored.float().mean() < 0.53
    assert torch.equal(mirrored[3, 10:20], pixels(data.get(key[10:20], 3))[:, 0, 0, 0] == 0)
    assert len({tuple(m.tolist()) for m in mirrored}) == 50
    flipped = pixels(data.get(key, 0))
    assert torch.equal(flipped.amax(-1), key[:, None, None].expand(-1, 3, 2))


def test_validation_images_are_never_trained_on():
    data = Numbered(validation_fraction=0.2)
    held = {int(image[0, 0, 0]) for image in pixels({"image": data.validation_images()})}
    trained = {k for step in range(40) for k in data.batch(step)["key"].tolist()}
    assert not held & trained
    assert held | trained == set(range(100))
    assert 8 <= len(held) <= 32


def test_a_split_without_training_images_is_refused():
    with pytest.raises(ValueError, match=r"leaves none of 100 images to train on"):
        Numbered(validation_fraction=1.0).batch(0)


@pytest.mark.parametrize("name", ["flip", "validation_fraction"])
def test_fractions_are_checked(name):
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got 1\.5"):
        Numbered(**{name: 1.5})
