"""Images and masks from whatever holds them: files, PIL images, arrays and tensors."""

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ldm.utils.errors import UserError
from ldm.utils.image_io import load_image
from ldm.utils.image_modes import flattened, in_range

Images = (
    str
    | os.PathLike[str]
    | Image.Image
    | np.ndarray
    | Tensor
    | Sequence[str | os.PathLike[str] | Image.Image | np.ndarray | Tensor]
)
"""One image or several."""

CHANNELS = range(1, 5)  # grey, grey and alpha, RGB, RGBA
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's "L"
SLACK = 1e-3  # of floats beyond their range, by rounding
ACCEPTED = "a path, a PIL image, an array, a tensor or a list of them"


def image_tensor(value: Any, name: str = "image", mode: str = "RGB") -> Float[Tensor, "n c h w"]:
    """Images as one tensor in [-1, 1], on the device of a tensor and on the CPU else.

    Arrays are (h, w), (h, w, c) or (n, h, w, c), tensors (h, w), (c, h, w) or (n, c, h, w); the other order
    is recognised where only it fits. Masks may also be (n, h, w). Bytes are 0..255, `uint16` is 0..65535,
    True is white. Floats are in [0, 1], or in [-1, 1] if one of the argument's is below -0.001.

    Args:
        value: images (`Images`), all of one size.
        name: of the argument, for messages.
        mode: "RGB", or "L" for masks (`ldm.utils.image_modes.flattened`).

    Raises: ValueError for anything else, FileNotFoundError.
    """
    if isinstance(value, list | tuple):
        return _several(value, name, mode)
    if isinstance(value, str | os.PathLike):
        value = load_image(value, mode=mode)
    if isinstance(value, Image.Image):
        return _of_pil([value], mode)
    if not isinstance(value, np.ndarray | Tensor):
        raise UserError(f"{name} must be {ACCEPTED}, got {_described(value)}")
    values = _laid_out(value, name, mode == "L")
    if not values.numel():
        raise UserError(f"{name} must have pixels, got {_described(value)}")
    try:
        if values.is_floating_point():
            return _of_floats(values, mode)
        return _of_pil([_to_pil(part) for part in _bytes(values)], mode).to(values.device)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def luma(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """Grey values of RGB images; grey ones are returned as they are."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _several(values: Sequence[Any], name: str, mode: str) -> Tensor:
    """The images of a list; arrays or tensors of one shape share the rule for floats."""
    if not values:
        raise UserError(f"{name} must be {ACCEPTED}, got an empty list")
    first = values[0]
    for kind, axis in ((np.ndarray, -1), (Tensor, 0)):
        alike = all(isinstance(v, kind) and v.shape == first.shape and v.dtype == first.dtype for v in values)
        if alike and first.ndim in (2, 3):
            parts = [v[..., None] if axis else v[None] for v in values] if first.ndim == 2 else list(values)
            return image_tensor(np.stack(parts) if axis else torch.stack(parts), name, mode)
    parts = [image_tensor(value, name, mode) for value in values]
    if len(sizes := {tuple(part.shape[:1:-1]) for part in parts}) > 1:
        raise UserError(f"{name} must be of one size, got {sorted(sizes)}")
    return torch.cat([part.to(parts[0].device) for part in parts])


def _laid_out(value: np.ndarray | Tensor, name: str, mask: bool) -> Tensor:
    """An array or tensor as (n, c, h, w)."""
    is_array = isinstance(value, np.ndarray)
    unsigned = re.search(r"uint(16|32|64)$", str(value.dtype))  # torch has no arithmetic on them
    if isinstance(value, Tensor):
        x = value.detach().long() if unsigned else value.detach()
    elif value.dtype.kind not in "buif" or value.dtype.itemsize > 8:
        raise UserError(f"{name} must hold numbers, got {_described(value)}")
    else:
        x = torch.from_numpy(np.array(value, dtype=np.int64 if unsigned else None, order="C"))
    if unsigned and unsigned[1] == "16" and x.numel() and not (mask and x.max() <= 1):
        x = (x / 257.0).round().long()
    if x.ndim == 2:
        return x[None, None]
    if x.ndim not in (3, 4):
        raise UserError(f"{name} must have 2 to 4 axes, got {_described(value)}")
    first, last = x.shape[-3] in CHANNELS, x.shape[-1] in CHANNELS
    if mask and x.ndim == 3 and not (last and (is_array or not first)):
        return x[:, None]
    if not (first or last):
        raise UserError(f"{name} must have 1 to 4 channels, got {_described(value)}")
    x = x if x.ndim == 4 else x[None]
    return x.movedim(-1, 1) if last and (is_array or not first) else x


def _bytes(values: Tensor) -> Tensor:
    """Whole numbers or truth values as bytes."""
    if values.dtype == torch.bool:
        return values.to(torch.uint8) * 255
    in_range(values.cpu().numpy(), 255)
    return values.to(torch.uint8)


def _to_pil(pixels: Tensor) -> Image.Image:
    """A PIL image of bytes (c, h, w)."""
    array = pixels.movedim(0, -1).cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def _of_pil(images: Sequence[Image.Image], mode: str) -> Tensor:
    pixels = np.stack([np.asarray(flattened(image, mode)) for image in images])
    tensor = torch.from_numpy(pixels.copy())
    tensor = tensor[:, None] if mode == "L" else tensor.permute(0, 3, 1, 2)
    return tensor.float().contiguous() / 127.5 - 1.0


def _of_floats(values: Tensor, mode: str) -> Tensor:
    """Floats (n, c, h, w) in the range that their smallest tells."""
    x = values.float()
    if not bool(x.isfinite().all()):
        raise UserError("holds NaN or infinite values")
    low, high = float(x.min()), float(x.max())
    if low < -1 - SLACK or high > 1 + SLACK:
        raise UserError(f"floats must be in [0, 1] or [-1, 1], got {low:.4g} to {high:.4g}; bytes are uint8")
    x = x.clamp(-1, 1) if low < -SLACK else x.clamp(0, 1) * 2 - 1
    if x.shape[1] in (2, 4):
        alpha, ground = (x[:, -1:] + 1) / 2, 1.0 if mode == "RGB" else -1.0
        x = x[:, :-1] * alpha + ground * (1 - alpha)
    if mode == "L":
        return luma(x)
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def _described(value: Any) -> str:
    """The kind and shape of a value, never all of its numbers."""
    if isinstance(value, np.ndarray | Tensor):
        return f"{type(value).__name__} of {value.dtype} {tuple(value.shape)}"
    return type(value).__name__
