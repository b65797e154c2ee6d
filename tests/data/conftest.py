"""Image shards, nets that encode them, and the two data modules that read the same samples."""

import io
import json
import sys
import tarfile
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.laion import LaionData
from ldm.data.latents.datamodule import LatentData
from ldm.data.latents.encode import Encoder
from ldm.models.identity import IdentityAutoencoder
from ldm.models.text_encoder import TinyTextEncoder
from ldm.models.vae import AutoencoderKL


class FrozenText(TinyTextEncoder):
    """Stands for CLIP: it is not trained."""

    trainable = False


def vae(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        values = {"channels": [8, 8], "latent_channels": 4, "layers_per_block": 1, "norm_groups": 4}
        return AutoencoderKL(**(values | options)).eval()


def text(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FrozenText(width=8, layers=1, num_heads=2, max_length=8, token_dim=4).eval()


def encoder(autoencoder=None, text_encoder=None, dtype="fp32", **options):
    net = autoencoder or IdentityAutoencoder()
    return Encoder(
        autoencoder=net, text_encoder=text_encoder, device=torch.device("cpu"), dtype=dtype, **options
    )


def png(i, size):
    pixels = np.random.default_rng(i).integers(0, 255, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


SIZES = [(32, 64), (64, 32), (40, 40)]


def write(path, first, count, broken=(), without=(), sizes=SIZES):
    """A shard of samples with these numbers; their images have these sizes in turn."""
    with tarfile.open(path, "w") as tar:
        for i in range(first, first + count):
            shape = sizes[i % len(sizes)]
            image = png(i, shape)
            said = {"width": shape[1], "height": shape[0], "aesthetic": i / 10, "title": f"title {i}"}
            parts = {"png": image[:-80] if i in broken else image, "txt": f"photo {i}".encode()}
            for extension, data in {**parts, "json": json.dumps(said).encode()}.items():
                if extension == "txt" and i in without:
                    continue
                info = tarfile.TarInfo(f"some/{i:08d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


ORDER = {"lanes": 2, "window": 5, "seed": 3, "max_bad_fraction": 0.5}


def laion(folder, **options):
    values = {"batch_size": 8, "image_size": 16, **ORDER}
    return LaionData(shards=str(folder / "{00000..00002}.tar"), **(values | options))


def latents(folder, **options):
    return LatentData(folder=str(folder), **({"batch_size": 8, "image_size": 16, **ORDER} | options))


def numbers(batch):
    """Of the samples in a batch, by their captions."""
    return [int(caption.split()[1]) for caption in batch["caption"]]


@pytest.fixture
def folder(tmp_path):
    """Three shards of 30 samples of one size, none of them bad."""
    for shard, (first, count) in enumerate(((0, 11), (11, 7), (18, 12))):
        write(tmp_path / f"{shard:05d}.tar", first, count, sizes=[(32, 40)])
    return tmp_path


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for shard, (first, count) in enumerate(((0, 11), (11, 7), (18, 12))):
        write(folder / f"{shard:05d}.tar", first, count, broken={4, 20}, without={13})
    return folder


@pytest.fixture
def making() -> ModuleType:
    """The functions of this file."""
    return sys.modules[__name__]
