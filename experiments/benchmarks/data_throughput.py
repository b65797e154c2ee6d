"""How many images a second does a loader give, and how many webdataset with PIL from the same pictures?

One core, batches of 64 as float tensors in [-1, 1] with captions. The peer streams tar shards of PNGs of the
final size, decodes each with PIL and stacks them, as one would without ldm. Each row is measured in turns
with the peer; medians of the rounds.

Run: python experiments/benchmarks/data_throughput.py [--rounds 5] [--size 32]
"""

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import webdataset
import yaml
from PIL import Image
from torch import Tensor

from ldm.data.batch import MemoryData
from ldm.data.emoji import EmojiData
from ldm.data.images import CaptionedImages

BATCH = 64
CONFIG = Path(__file__).parents[2] / "conf" / "data" / "emoji.yaml"


class Pictures(CaptionedImages):
    """The emoji on white as plain RGB images."""

    def __init__(self, images: Tensor, captions: list[str], flip: float) -> None:
        super().__init__(batch_size=BATCH, image_size=images.shape[-1], flip=flip)
        self.pictures = images, captions

    def read(self) -> tuple[Tensor, list[str]]:
        return self.pictures


def write_shard(path: Path, images: Tensor, captions: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
            file = io.BytesIO()
            Image.fromarray(image.movedim(0, -1).numpy()).save(file, "PNG")
            for extension, data in (("png", file.getvalue()), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{i:05d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def peer(path: Path) -> Iterator[tuple[Tensor, list[str]]]:
    """Batches by webdataset's documented pipeline, shuffled in a buffer."""

    def collate(samples: list[tuple[Image.Image, str]]) -> tuple[Tensor, list[str]]:
        pixels = torch.stack([torch.from_numpy(np.array(image)) for image, _ in samples])
        return pixels.movedim(-1, 1).float() / 127.5 - 1.0, [caption for _, caption in samples]

    data = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).shuffle(1000)
    return iter(data.decode("pil").to_tuple("png", "txt").batched(BATCH, collation_fn=collate, partial=False))


def rate(batches: Callable[[], Iterator[object]], count: int) -> float:
    """Images per second over `count` batches."""
    stream = batches()
    start = time.perf_counter()
    done = sum(1 for _ in islice(stream, count))
    return done * BATCH / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=32, choices=(16, 32, 64))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backgrounds = yaml.safe_load(CONFIG.read_text())["backgrounds"]
    emoji = EmojiData(batch_size=BATCH, image_size=arguments.size)
    coloured = EmojiData(
        batch_size=BATCH,
        image_size=arguments.size,
        backgrounds=backgrounds,
        background_probability=0.5,
        held_out_pairs=0.1,
    )
    images, captions = emoji.reference_images(), emoji.reference_captions()
    rows: dict[str, MemoryData] = {
        "RGB in memory": Pictures(images, captions, 0.0),
        "RGB in memory, flips": Pictures(images, captions, 0.5),
        "emoji, on white": emoji,
        "emoji, on white and colours": coloured,
    }
    count = len(images) // BATCH
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.tar"
        write_shard(path, images, captions)
        rate(lambda: peer(path), count)
        print(f"{len(images)} images, {arguments.size} px, one core, medians of {arguments.rounds}")
        print(f"{'loader':30} {'images/s':>10} {'webdataset + PIL':>18} {'ratio':>8}")
        for name, data in rows.items():
            rate(lambda data=data: iter(data.train_dataloader()), 2)
            ours, theirs = [], []
            for _ in range(arguments.rounds):
                ours.append(rate(lambda data=data: iter(data.train_dataloader()), 5 * count))
                theirs.append(rate(lambda: peer(path), count))
            a, b = statistics.median(ours), statistics.median(theirs)
            print(f"{name:30} {a:10,.0f} {b:18,.0f} {a / b:8.1f}")


if __name__ == "__main__":
    main()
