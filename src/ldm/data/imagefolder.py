"""A folder of images with captions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from ldm.data.images import CaptionedImages
from ldm.utils.errors import UserError
from ldm.utils.text_files import read_text

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class ImageFolderData(CaptionedImages):
    """Images below a folder, resized and cropped to a square.

    The caption of `a/b.png` is the text of `a/b.txt` if there is one, else "a photo of a {folder}" in a
    sub-folder.

    Args:
        root: the folder.
        batch_size: global batch size.
        image_size: height and width.
        flip: probability of a mirror image.
        validation_fraction: fraction of the images that are never trained on.
        seed: of order, flips and split.
        num_workers: loader processes.
    """

    def __init__(
        self,
        *,
        root: str,
        batch_size: int,
        image_size: int = 64,
        flip: float = 0.0,
        validation_fraction: float = 0.0,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            image_size=image_size,
            flip=flip,
            validation_fraction=validation_fraction,
            seed=seed,
            num_workers=num_workers,
        )
        self.root = Path(root)

    def caption(self, path: Path) -> str:
        """Caption of an image file."""
        text = path.with_suffix(".txt")
        if text.is_file():
            return read_text(text).strip()
        if path.parent == self.root:
            raise UserError(f"{path} has no caption: neither {text.name} nor a class folder")
        return f"a photo of a {path.parent.name.replace('_', ' ')}"

    def paths(self) -> list[Path]:
        """The image files, sorted.

        Raises: FileNotFoundError if there is none.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder at {self.root}")
        found = sorted(p for p in self.root.rglob("*") if p.suffix.lower() in EXTENSIONS)
        if not found:
            looked = ", ".join(sorted(EXTENSIONS))
            raise FileNotFoundError(f"no images below {self.root}, looked for {looked}")
        return found

    def read(self) -> tuple[UInt8[Tensor, "n 3 h w"], Sequence[str]]:
        """All images, in the order of their paths."""
        paths = self.paths()
        size = (self.image_size, self.image_size)
        pixels = []
        for path in paths:
            try:
                image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
            except (OSError, SyntaxError) as error:
                raise UserError(f"{path}: cannot be read as an image: {error}") from error
            pixels.append(np.asarray(ImageOps.fit(image, size, Image.Resampling.BICUBIC)))
        return torch.from_numpy(np.stack(pixels)).movedim(-1, 1), [self.caption(p) for p in paths]
