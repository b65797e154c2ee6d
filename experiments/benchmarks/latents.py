"""How many images a second does training get from latents made ahead of time, and how many from images?

One core. JPEGs of 512 x 384 in shards, brought to 256 pixels; latents with the shapes of Stable Diffusion
1.x: mean and deviation (4, 32, 32) and the 77 x 768 tokens of the caption, fp16. The loader of latents
reads, checks and stacks them; that of images decodes, resizes and crops, after which Stable Diffusion's
autoencoder and CLIP's text tower have to encode: this is measured for a few images, with random weights.
The loaders are measured in turns; medians of the rounds.

Run: python experiments/benchmarks/latents.py [--rounds 5] [--images 256]
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ldm.data.laion import LaionData
from ldm.data.latents.datamodule import LatentData
from ldm.data.latents.encode import Encoder
from ldm.data.latents.precompute import precompute
from ldm.data.shards.datamodule import ShardData
from ldm.data.shards.writer import Sample, write_shards
from ldm.models.clip import ClipTextEncoder
from ldm.models.vae import AutoencoderKL

BATCH, SIZE, FEW = 32, 256, 2
WIDTHS = {"Stable Diffusion's": ((128, 256, 512, 512), 12), "small": ((32, 32, 32, 32), 1)}


def jpeg(i: int) -> bytes:
    pixels = np.random.default_rng(i).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((512, 384), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def nets(name: str) -> Encoder:
    """Nets with latents and tokens of Stable Diffusion's shapes."""
    channels, layers = WIDTHS[name]
    text = ClipTextEncoder(width=768, layers=layers, num_heads=12, quick_gelu=True)
    return Encoder(
        autoencoder=AutoencoderKL(channels=channels).eval(), text_encoder=text, device=torch.device("cpu")
    )


def rate(data: ShardData, count: int) -> float:
    """Images a CPU second of batches 1 .. count."""
    start = time.process_time()
    for step in range(1, count + 1):
        data.batch(step)
    return count * BATCH / (time.process_time() - start)


def seconds_of_encoding() -> float:
    """CPU seconds an image by Stable Diffusion's nets."""
    encoder = nets("Stable Diffusion's")
    images, captions = torch.zeros(FEW, 3, SIZE, SIZE, dtype=torch.uint8), ["a photo of a cat"] * FEW
    encoder(images[:1], captions[:1])
    start = time.process_time()
    encoder(images, captions)
    return (time.process_time() - start) / FEW


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = (Sample(jpeg(i), "jpg", f"a photo of {i}", {}) for i in range(arguments.images))
        write_shards(samples, folder / "images", per_shard=arguments.images // 2)
        images = LaionData(shards=f"{folder}/images/*.tar", batch_size=BATCH, image_size=SIZE)
        precompute(images, nets("small"), folder / "latents", batch_size=BATCH)
        latents = LatentData(folder=str(folder / "latents"), batch_size=BATCH, image_size=SIZE)
        alone = LatentData(
            folder=str(folder / "latents"), batch_size=BATCH, image_size=SIZE, embeddings=False
        )
        rows = {"images": images, "latents, tokens": latents, "latents, captions": alone}
        found: dict[str, list[float]] = {row: [] for row in rows}
        for _ in range(arguments.rounds):
            for row, data in rows.items():
                found[row].append(rate(data, arguments.images // BATCH))
        sizes = {
            kind: sum(p.stat().st_size for p in (folder / kind).glob("*.tar")) / arguments.images / 1e3
            for kind in ("images", "latents")
        }
    speeds = {row: statistics.median(values) for row, values in found.items()}
    encoding = seconds_of_encoding()
    encoded = 1 / (1 / speeds["images"] + encoding)
    print(f"{arguments.images} images, {SIZE} px, one core, medians of {arguments.rounds}")
    print(f"a sample: image {sizes['images']:.0f} kB, latent with tokens {sizes['latents']:.0f} kB")
    print(f"{'':32} {'images/CPU s':>14} {'ratio':>8}")
    speeds["images, and encoding them here"] = encoded
    for row, speed in speeds.items():
        print(f"{row:32} {speed:14,.2f} {speed / speeds['images']:8.2g}")


if __name__ == "__main__":
    main()
