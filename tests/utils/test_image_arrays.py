"""One way in: a picture is the same picture, whatever holds it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.utils.errors import UserError
from ldm.utils.image_arrays import image_tensor, luma

BYTES = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
BYTES[0, 0], BYTES[0, 1] = 0, 255
MASK = np.zeros((6, 10), np.uint8)
MASK[:3, :5] = 255
CHW = torch.from_numpy(BYTES).permute(2, 0, 1)
WANTED = CHW[None].float() / 127.5 - 1


def saved(array: np.ndarray, path: Path) -> Path:
    Image.fromarray(array).save(path)
    return path


PICTURES: dict[str, Any] = {
    "PIL": Image.fromarray(BYTES),
    "list of PIL": [Image.fromarray(BYTES)],
    "RGBA": Image.fromarray(BYTES).convert("RGBA"),
    "bytes": BYTES,
    "bytes of a batch": BYTES[None],
    "list of bytes": [BYTES],
    "bytes, channels first": BYTES.transpose(2, 0, 1),
    "bytes with alpha": np.dstack([BYTES, np.full((6, 10), 255, np.uint8)]),
    "int64": BYTES.astype(np.int64),
    "uint16": BYTES.astype(np.uint16) * 257,
    "float32 in [0, 1]": BYTES.astype(np.float32) / 255,
    "float64 in [-1, 1]": BYTES / 127.5 - 1,
    "uint8 tensor": CHW,
    "uint16 tensor": torch.from_numpy(BYTES.astype(np.uint16) * 257).permute(2, 0, 1),
    "tensor of a batch": CHW[None],
    "tensor, channels last": CHW.permute(1, 2, 0)[None],
    "float tensor in [0, 1]": CHW / 255,
    "float tensor in [-1, 1]": WANTED,
    "list of tensors": [CHW / 255],
    "tensor with alpha": torch.cat([CHW / 255, torch.ones(1, 6, 10)]),
    "tensor that needs a gradient": WANTED.clone().requires_grad_(),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_same_whatever_holds_it(name: str):
    made = image_tensor(PICTURES[name])
    assert made.dtype == torch.float32
    assert not made.requires_grad
    assert made.shape == WANTED.shape
    assert torch.allclose(made, WANTED, atol=1e-6)


def test_paths_are_read(tmp_path: Path):
    path = saved(BYTES, tmp_path / "a.png")
    assert torch.equal(image_tensor(path), WANTED)
    assert torch.equal(image_tensor([str(path), path]), torch.cat([WANTED, WANTED]))
    with pytest.raises(FileNotFoundError, match="no image at"):
        image_tensor(tmp_path / "none.png")


HALF = torch.from_numpy(MASK)
MASKS: dict[str, Any] = {
    "PIL": Image.fromarray(MASK),
    "RGB": Image.fromarray(MASK).convert("RGB"),
    "bytes": MASK,
    "bytes with a channel": MASK[..., None],
    "bytes of a batch": MASK[None],
    "bytes of 0 and 1": MASK // 255,
    "truth values": MASK > 0,
    "int64 of 0 and 1": (MASK // 255).astype(np.int64),
    "uint16 of 0 and 1": (MASK // 255).astype(np.uint16),
    "float of 0 and 1": (MASK // 255).astype(np.float32),
    "float16": (MASK // 255).astype(np.float16),
    "float of -1 and 1": MASK / 127.5 - 1,
    "RGBA": np.dstack([np.full((6, 10, 3), 255, np.uint8), MASK]),
    "uint8 tensor": HALF,
    "bool tensor": HALF > 0,
    "bool tensor of a batch": (HALF > 0)[None, None],
    "int64 tensor of 0 and 1": (HALF > 0).long()[None],
    "float tensor of 0 and 1": (HALF > 0).float()[None, None],
    "bfloat16 tensor": (HALF > 0).bfloat16(),
    "float tensor of -1 and 1": (HALF > 0).float() * 2 - 1,
    "noise below zero": (HALF > 0).float() - 1e-7,
    "list of truth values": [MASK > 0],
    "one bit": Image.fromarray(MASK).convert("1"),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_the_same_whatever_holds_it(name: str):
    made = image_tensor(MASKS[name], "mask", "L")
    assert made.shape == (1, 1, 6, 10)
    assert torch.equal(made >= 0, (HALF > 0)[None, None])


def test_a_stack_without_channels_is_a_batch_of_masks():
    several = np.stack([MASK > 0, MASK == 0, MASK > 0])
    for value in (several, torch.from_numpy(several), list(several), list(torch.from_numpy(several))):
        made = image_tensor(value, "mask", "L")
        assert made.shape == (3, 1, 6, 10)
        assert torch.equal(made[1] >= 0, (HALF == 0)[None])


def test_floats_with_alpha_are_laid_over_white_and_masks_over_black():
    clear = torch.tensor([0.2, 0.4, 0.6, 0.5]).view(4, 1, 1).expand(4, 6, 10)
    assert torch.allclose(image_tensor(clear)[0, :, 0, 0], torch.tensor([0.2, 0.4, 0.6]), atol=1e-6)
    grey = image_tensor(torch.cat([clear, clear])[None, 2:4], "mask", "L")  # 0.6 at half opacity
    assert torch.allclose(grey, torch.full_like(grey, 2 * 0.3 - 1), atol=1e-6)


def test_the_rule_for_floats_is_that_of_the_whole_argument():
    """A bright image in [-1, 1] is not taken for one in [0, 1] beside a dark one."""
    dark, bright = torch.full((3, 6, 10), -0.5), torch.full((3, 6, 10), 0.5)
    together = image_tensor([dark, bright])
    assert torch.equal(together, torch.stack([dark, bright]))
    assert torch.equal(image_tensor(bright), torch.zeros(1, 3, 6, 10))


def test_grey_is_pils_luma():
    wanted = np.asarray(Image.fromarray(BYTES).convert("L")).astype(np.float32) / 127.5 - 1
    assert np.abs(luma(WANTED)[0, 0].numpy() - wanted).max() <= 1.01 / 127.5
    assert luma(WANTED[:, :1]) is not None
    assert torch.equal(luma(WANTED[:, :1]), WANTED[:, :1])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "image must be a path, a PIL image, .* got an empty list"),
        (3, "image must be a path, .* got int"),
        ([Image.new("RGB", (2, 2)), 3], "image must be a path, .* got int"),
        ([Image.new("RGB", (2, 2)), Image.new("RGB", (3, 3))], "image must be of one size"),
        (np.zeros((9, 8, 7)), r"image must have 1 to 4 channels, got ndarray of float64 \(9, 8, 7\)"),
        (torch.zeros(5), r"image must have 2 to 4 axes, got Tensor of torch.float32 \(5,\)"),
        (np.array([["a"]]), "image must hold numbers"),
        (np.zeros((0, 4)), "image must have pixels"),
        (torch.tensor([[0.0, 255.0]]), r"image: floats must be in \[0, 1\] or \[-1, 1\], got 0 to 255"),
        (torch.tensor([[-3.0, 1.0]]), "image: floats must be in"),
        (torch.tensor([[float("nan")]]), "image: holds NaN"),
        (np.array([[0, 256]]), r"image: pixels must be whole numbers in 0\.\.255, got 0 to 256"),
        (np.array([[-1, 3]]), "image: pixels must be whole numbers"),
    ],
)
def test_other_values_are_refused_in_one_short_line(value: Any, says: str):
    with pytest.raises(UserError, match=says) as caught:
        image_tensor(value)
    assert len(str(caught.value)) < 200
