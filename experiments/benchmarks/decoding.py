"""How many images a second does each way give from the bytes of a JPEG to the pixels of a square?

One core. Every row takes the same bytes to the same square of RGB bytes: the image scaled until its smaller
side fits, the middle of it. Photos are made on the spot: noise with the 1/f spectrum of natural images, JPEG
of quality 90 with halved chroma, 2:3. The rows take turns, image by image; medians of the rounds. The PSNR is
against the first row, which decodes at full size.

Measured on 2 cores (Pillow 13, torch with AVX2): Pillow's decoder stays, as simplejpeg's, which also knows
scales between 1 and 1/2, is 1.03 to 1.18 times as fast in the whole path and one more library, and
torchvision's knows no scale (0.7 to 0.9 times as fast where there is one, 1.2 times at 768 -> 512). The
resize was changed from Pillow's to torch's: 1.0 times as fast where the DCT gives the size, 1.17 at 600 ->
256, 1.55 at 768 -> 512.

Run: python experiments/benchmarks/decoding.py [--rounds 9] [--images 16]
"""

import argparse
import importlib.util
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from ldm.data.decode import crop_of, cropped, decode

SIZES = [(512, 256), (600, 256), (768, 512), (1024, 256), (512, 512)]  # smaller side stored, side wanted
BICUBIC = Image.Resampling.BICUBIC


def photo(height: int, width: int, seed: int) -> bytes:
    """A JPEG of noise whose amplitudes fall as 1/f, its channels alike as in photos."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    f[0, 0] = 1.0
    noise = rng.standard_normal((4, height, width))
    fields = np.fft.irfft2(np.fft.rfft2(noise) / f, s=(height, width))
    mixed = fields[0] + 0.3 * fields[1:]
    mixed = (mixed - mixed.mean()) / mixed.std()
    pixels = np.clip(128 + 50 * mixed, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(out, "JPEG", quality=90)
    return out.getvalue()


def middle(image: Image.Image, side: int, gap: float | None = None) -> np.ndarray:
    least = min(image.size)
    left, top = (image.width - least) / 2, (image.height - least) / 2
    box = (left, top, left + least, top + least)
    return np.asarray(image.resize((side, side), BICUBIC, box=box, reducing_gap=gap))


def pillow(data: bytes, side: int) -> np.ndarray:
    return middle(Image.open(io.BytesIO(data)).convert("RGB"), side)


def ours(data: bytes, side: int) -> np.ndarray:
    decoded = decode(data, (side, side), 10**8)
    return cropped(decoded, crop_of(decoded.size, (side, side), (0.5, 0.5)), (side, side))


def resized(pixels: torch.Tensor, side: int) -> np.ndarray:
    """By torch, which resizes bytes with vector instructions."""
    scaled = functional.resize(pixels, [side], functional.InterpolationMode.BICUBIC, antialias=True)
    return functional.center_crop(scaled, [side, side]).movedim(0, -1).contiguous().numpy()


def torchvision(data: bytes, side: int) -> np.ndarray:
    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    return resized(pixels, side)


def pillow_dct(data: bytes, side: int) -> np.ndarray:
    return middle(decode(data, (side, side), 10**8).image, side, 3.0)


def simplejpeg_torch(data: bytes, side: int) -> np.ndarray:
    import simplejpeg as library

    pixels = library.decode_jpeg(data, "RGB", min_height=side, min_width=side)
    return resized(torch.from_numpy(pixels).movedim(-1, 0), side)


def simplejpeg(data: bytes, side: int) -> np.ndarray:
    import simplejpeg as library

    pixels = library.decode_jpeg(data, "RGB", min_height=side, min_width=side)
    return middle(Image.fromarray(pixels), side, 3.0)


WAYS: dict[str, Callable[[bytes, int], np.ndarray]] = {
    "Pillow, decoded in full": pillow,
    "Pillow, scaled by the DCT": pillow_dct,
    "ldm: Pillow by the DCT, torch's resize": ours,
    "torchvision": torchvision,
}
if importlib.util.find_spec("simplejpeg"):
    WAYS["simplejpeg, scaled by the DCT"] = simplejpeg
    WAYS["simplejpeg by the DCT, torch's resize"] = simplejpeg_torch


def seconds(photos: list[bytes], side: int, rounds: int) -> dict[str, float]:
    """Median seconds an image of each way."""
    spent: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds + 1):
        total = dict.fromkeys(WAYS, 0.0)
        for data in photos:
            for name, way in WAYS.items():
                start = time.perf_counter()
                way(data, side)
                total[name] += time.perf_counter() - start
        for name in WAYS:
            spent[name].append(total[name] / len(photos))
    return {name: statistics.median(times[1:]) for name, times in spent.items()}  # the first round warms up


def psnr(photos: list[bytes], side: int, way: Callable[[bytes, int], np.ndarray]) -> float:
    errors = [np.square(way(data, side).astype(float) - pillow(data, side)).mean() for data in photos]
    return float(10 * np.log10(255**2 / max(np.mean(errors), 1e-9)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.images} photos, one core, medians of {arguments.rounds} rounds")
    print(f"{'stored':>10} {'to':>4}  {'way':39} {'images/s':>9} {'ratio':>6} {'PSNR, dB':>9}")
    for stored, side in SIZES:
        photos = [photo(stored, stored * 3 // 2, seed) for seed in range(arguments.images)]
        times = seconds(photos, side, arguments.rounds)
        full = times[next(iter(WAYS))]
        for name, way in WAYS.items():
            size, quality = f"{stored}x{stored * 3 // 2}", psnr(photos, side, way)
            row = f"{size:>10} {side:4}  {name:39} {1 / times[name]:9.0f} {full / times[name]:6.2f}"
            print(f"{row} {quality:9.1f}" if quality < 90 else f"{row} {'same':>9}")


if __name__ == "__main__":
    main()
