"""CIFAR-10 (Krizhevsky 2009): 32x32 photographs of ten classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ldm.data.images import CaptionedImages
from ldm.data.shards.in_memory import decode_image, read_shards
from ldm.utils.errors import UserError

ARCHIVE = "cifar-10-python.tar.gz"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LABELS = {str(i): i for i in range(len(CLASSES))}


class CIFAR10Data(CaptionedImages):
    """CIFAR-10 with the captions "a photo of a {class}".

    Args:
        root: folder with torchvision's `cifar-10-batches-py` or its archive `cifar-10-python.tar.gz`, or
            with tar shards of jpg/png + cls named `*train*.tar` or `*train*.tar.gz`; downloaded into it when
            it has neither.
        download: fetch the archive when it is not there.
        batch_size: global batch size.
        image_size: 32.
        flip: probability of a mirror image.
        validation_fraction: fraction of the images that are never trained on.
        seed: of order, flips and split.
        num_workers: loader processes.
    """

    def __init__(
        self,
        *,
        root: str,
        download: bool = True,
        batch_size: int,
        image_size: int = 32,
        flip: float = 0.5,
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
        if image_size != 32:
            raise ValueError(f"image_size must be 32, got {image_size}")
        self.root, self.download = Path(root), download

    def read(self) -> tuple[UInt8[Tensor, "n 3 h w"], Sequence[str]]:
        """The 50,000 training images."""
        shards = sorted(p for p in self.root.glob("*train*.tar*") if p.suffix in (".tar", ".gz"))
        if shards:
            images, labels = self._from_shards(shards)
        else:
            images, labels = self._from_torchvision()
        return images, [f"a photo of a {CLASSES[label]}" for label in labels]

    def _from_shards(self, shards: list[Path]) -> tuple[Tensor, list[int]]:
        pixels, labels = [], []
        for sample in read_shards(shards):
            where = sample["__key__"].decode()
            data = sample.get("jpg") or sample.get("png")
            label = sample.get("cls", b"").decode(errors="replace").strip()
            if data is None or label not in LABELS:
                raise UserError(f"{where}: a sample needs jpg or png, and cls in 0..9, got {label!r}")
            pixels.append(decode_image(data, "RGB", where))
            if pixels[-1].shape != (32, 32, 3):
                raise UserError(f"{where}: images must be 32x32, got {pixels[-1].shape[:2]}")
            labels.append(LABELS[label])
        return torch.from_numpy(np.stack(pixels)).movedim(-1, 1), labels

    def _from_torchvision(self) -> tuple[Tensor, list[int]]:
        from torchvision.datasets import CIFAR10
        from torchvision.datasets.utils import check_integrity

        archive, folder = self.root / ARCHIVE, self.root / CIFAR10.base_folder
        packed = archive.is_file() and not folder.is_dir()
        if packed and not check_integrity(str(archive), CIFAR10.tgz_md5) and not self.download:
            raise UserError(f"{archive}: damaged, its MD5 is not {CIFAR10.tgz_md5}")
        try:  # download also unpacks an archive that is there, without a network
            data = CIFAR10(str(self.root), train=True, download=self.download or packed)
        except (OSError, RuntimeError) as error:
            tried = f"nor could it be fetched ({error})" if self.download else "nor may it be fetched"
            raise FileNotFoundError(
                f"CIFAR-10 is neither in {self.root} {tried}; put {ARCHIVE} or tar shards there"
            ) from error
        return torch.from_numpy(data.data).movedim(-1, 1), list(data.targets)
