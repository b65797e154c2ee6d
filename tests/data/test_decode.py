"""Decoded images and their crops: the numbers say exactly which pixels were taken."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ldm.data.decode import BadSample, Decoded, crop_of, cropped, decode


def picture(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def encoded(image, kind="PNG"):
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("size", "target"), [((48, 80), (24, 24)), ((80, 48), (24, 24)), ((64, 48), (24, 24))]
)
@pytest.mark.parametrize("share", [(0.0, 0.0), (0.5, 0.5), (0.3, 0.9), (1.0, 1.0)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_crop_is_the_window_of_the_resized_image_that_it_says(size, target, share, mirrored):
    """Mirrored first, resized, then cropped: as diffusers' training of SDXL does."""
    image = picture(*size)
    crop = crop_of(size, target, share, mirrored)
    taken = cropped(Decoded(image=image, size=size), crop, target)
    seen = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
    scale = max(target[0] / size[0], target[1] / size[1])
    whole = np.asarray(
        seen.resize((round(size[1] * scale), round(size[0] * scale)), Image.Resampling.BICUBIC)
    )
    expected = whole[crop.top : crop.top + target[0], crop.left : crop.left + target[1]]
    assert taken.shape == (*target, 3)
    assert np.abs(taken.astype(int) - expected).max() <= 3  # Pillow chooses which side goes first


@given(
    st.tuples(st.integers(2, 3000), st.integers(2, 3000)),
    st.tuples(st.integers(1, 200), st.integers(1, 200)).map(lambda t: (8 * t[0], 8 * t[1])),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.booleans(),
)
def test_a_crop_lies_in_its_image_which_just_covers_it(size, target, share, mirrored):
    crop = crop_of(size, target, share, mirrored)
    over = [crop.resized[i] - target[i] for i in (0, 1)]
    assert min(over) == 0
    assert 0 <= crop.top <= over[0]
    assert 0 <= crop.left <= over[1]
    scale = max(target[0] / size[0], target[1] / size[1])
    assert all(abs(crop.resized[i] - size[i] * scale) <= 0.5 + 1e-6 for i in (0, 1))
    other = crop_of(size, target, share, not mirrored)
    assert (crop.top, crop.left, crop.resized) == (other.top, other.left, other.resized)


@pytest.mark.parametrize(
    ("size", "target"), [((1000, 667), (256, 256)), ((513, 1027), (128, 256)), ((30, 40), (64, 64))]
)
def test_the_stored_size_is_that_before_the_scaling_of_the_dct(size, target):
    decoded = decode(encoded(picture(*size), "JPEG"), target, 10**9)
    assert decoded.size == size
    crop = crop_of(size, target, (0.5, 0.5))
    assert cropped(decoded, crop, target).shape == (*target, 3)
    shrunk = decoded.image.size != size[::-1]
    assert shrunk == (min(size[0] // target[0], size[1] // target[1]) >= 2)
    assert decoded.image.height >= target[0] or not shrunk
    assert decoded.image.width >= target[1] or not shrunk


def test_a_smooth_image_is_the_same_by_the_dct_and_without():
    y, x = np.mgrid[0:600, 0:900]
    smooth = np.stack([y / 600, x / 900, (x + y) / 1500], axis=-1)
    image = Image.fromarray((255 * smooth).astype(np.uint8))
    crop = crop_of((600, 900), (128, 128), (0.5, 0.25), True)
    by_dct = cropped(decode(encoded(image, "JPEG"), (128, 128), 10**9), crop, (128, 128))
    without = cropped(Decoded(image=image, size=(600, 900)), crop, (128, 128))
    assert np.abs(by_dct.astype(int) - without).max() <= 4


@pytest.mark.parametrize("size", [(40, 700), (900, 900), (700, 41)])
def test_panoramas_and_large_images_are_cropped_as_others_are(size):
    """Pillow resizes the window alone where torch would resize much that is not used."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    ramp = np.stack([255 * (y + 0.5) / size[0], 255 * (x + 0.5) / size[1], 0 * x], axis=-1).astype(np.uint8)
    crop = crop_of(size, (32, 32), (0.7, 0.7), True)
    taken = cropped(Decoded(image=Image.fromarray(ramp), size=size), crop, (32, 32)).astype(float)
    height, width = crop.resized
    rows = 255 * (crop.top + np.arange(32) + 0.5) / height
    columns = 255 * (1 - (crop.left + np.arange(32) + 0.5) / width)
    assert np.abs(taken[..., 0] - rows[:, None]).max() < 3
    assert np.abs(taken[..., 1] - columns[None]).max() < 3


@pytest.mark.parametrize(
    ("bytes_", "cause"),
    [
        (encoded(picture(32, 40), "JPEG")[:200], "damaged image"),
        (b"", "damaged image"),
        (encoded(picture(300, 300)), "too many pixels"),
        (encoded(picture(50, 1)), "absurd size"),
        (encoded(picture(32, 40))[:-60], "damaged image"),
    ],
)
def test_causes_are_named(bytes_, cause):
    with pytest.raises(BadSample, match=cause):
        decode(bytes_, (16, 16), 50_000)


def test_crops_are_of_the_smaller_side():
    ramp = Image.fromarray(np.tile(np.arange(90, dtype=np.uint8)[None, :, None], (30, 1, 3)))
    decoded = Decoded(image=ramp, size=(30, 90))
    for share, middle in ((0.0, 14.5), (0.5, 44.5), (1.0, 74.5)):
        crop = cropped(decoded, crop_of((30, 90), (10, 10), (0.5, share)), (10, 10))
        assert crop.shape == (10, 10, 3)
        assert crop.mean() == pytest.approx(middle, abs=1)
