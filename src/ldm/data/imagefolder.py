"""A folder of images with captions."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from ldm.data.folder_captions import check_splits, described
from ldm.data.images import CaptionedImages
from ldm.utils.errors import UserError
from ldm.utils.folders import files_below
from ldm.utils.image_io import load_image
from ldm.utils.text_files import caption_of

log = logging.getLogger(__name__)
EXTENSIONS = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
UNREAD = {".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg", ".raw", ".cr2", ".nef", ".arw", ".dng"}
DATASETS = {".parquet", ".arrow"}
SHOWN = 8  # extensions named in a message


class ImageFolderData(CaptionedImages):
    """Images below a folder, resized and cropped to a square.

    The caption of `a/b.png` is the text of `a/b.txt` if there is one, else that of the row of `b.png` in
    `a/metadata.jsonl` or `a/metadata.csv` (or in those of a folder above it), else "a photo of a {folder}" in
    a sub-folder. Hidden files and folders, and what desktops leave behind, are left out; links to folders are
    followed, each folder once. Of an animated image the first frame is read.

    Args:
        root: the folder; of several splits (train, test, ..) that of one.
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

    def captioned(self) -> list[tuple[Path, str]]:
        """The image files, sorted, each with its caption.

        Raises: FileNotFoundError if there is none; ValueError for an image without a caption.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder at {self.root}")
        files = files_below(self.root)
        images = [path for path in files if path.suffix.lower() in EXTENSIONS]
        if not images:
            raise FileNotFoundError(self._nothing(files))
        if others := [path for path in files if path.suffix.lower() in UNREAD]:
            log.warning("%d images are not read, such as %s: save them as PNG", len(others), others[0])
        split, texts = check_splits(images, self.root), described(files, self.root)
        if missing := sorted(set(texts) - set(images)):
            log.warning("%d images of the metadata are not there, such as %s", len(missing), missing[0])
        return [(path, self._caption(path, texts, split)) for path in images]

    def _caption(self, path: Path, texts: dict[Path, str], split: str | None) -> str:
        """Caption of an image file."""
        text = path.with_suffix(".txt")
        if text.is_file():
            return caption_of(text.read_bytes(), str(text))
        if caption := texts.get(path):
            return caption
        if texts:
            raise UserError(f"{path} has no caption: neither {text.name} nor one in the metadata")
        if path.parent == self.root or path.parent == self.root / (split or ""):
            raise UserError(f"{path} has no caption: neither {text.name} nor a class folder")
        return f"a photo of a {path.parent.name.replace('_', ' ')}"

    def _nothing(self, files: Sequence[Path]) -> str:
        """The reason why there is no image, and what to do."""
        message = f"no images below {self.root}, looked for {', '.join(sorted(EXTENSIONS))}"
        if files:
            kinds = Counter(path.suffix.lower() or "no extension" for path in files).most_common(SHOWN)
            found = ", ".join(f"{count} of {kind}" for kind, count in kinds)
            message += f"; found {found}, such as {files[0].relative_to(self.root)}"
        if any(path.suffix.lower() in DATASETS for path in files):
            return f"{message}: ldm-data hf dataset={self.root} output=FOLDER reads such a dataset"
        if any(path.suffix.lower() == ".tar" for path in files):
            return f"{message}: tar shards are read by data=laion 'data.shards={self.root}/**/*.tar'"
        return f"{message}: set data.root to the folder of the images"

    def read(self) -> tuple[UInt8[Tensor, "n 3 h w"], Sequence[str]]:
        """All images, in the order of their paths."""
        found = self.captioned()
        size = (self.image_size, self.image_size)
        pixels = [
            np.asarray(ImageOps.fit(load_image(path), size, Image.Resampling.BICUBIC)) for path, _ in found
        ]
        return torch.from_numpy(np.stack(pixels)).movedim(-1, 1), [caption for _, caption in found]
