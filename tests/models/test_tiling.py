import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ldm.models.blocks import Downsample, Upsample
from ldm.models.tiling import (
    bands,
    decode_tiled,
    downsample,
    encode_tiled,
    group_moments,
    held,
    norm_silu,
    stored,
    upsample,
)
from ldm.models.vae import AutoencoderKL, Posterior

CONFIGS: dict[str, dict[str, Any]] = {
    "one level": {"channels": [4]},
    "two levels, linear middle": {"channels": [4, 8], "mid_attention": False, "layers_per_block": 2},
    "three levels, shortcut": {"channels": [4, 8, 8], "patch_shortcut": True},
}


def random_autoencoder(seed: int, **config: Any) -> AutoencoderKL:
    """An autoencoder none of whose layers is zero or the identity, so that an error in any shows."""
    torch.manual_seed(seed)
    net = AutoencoderKL(**{"layers_per_block": 1, "norm_groups": 2, "latent_channels": 3, **config})
    for name, p in net.named_parameters():
        torch.nn.init.normal_(p, std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.3)
        if "norm" in name and name.endswith("weight"):
            p.data.add_(1.0)
    return net.eval()


def latent(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def distance(result: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    return float((result - expected).abs().max() / expected.abs().max())


def whole(net: AutoencoderKL, z: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        posterior = net.encode(image)
        return net.decode(z), posterior.mean, posterior.logvar


def tiled(net: AutoencoderKL, z: Tensor, image: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    posterior = encode_tiled(net, image, rows)
    return decode_tiled(net, z, rows), posterior.mean, posterior.logvar


@pytest.mark.parametrize(("seed", "size"), [(0, (7, 4)), (1, (5, 9)), (2, (4, 4))])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_tiled_equals_untiled(config: dict[str, Any], size: tuple[int, int], seed: int):
    net, z = random_autoencoder(seed, **config), latent(*size, seed=seed)
    image = latent(*(net.downscale * n for n in size), seed=seed + 10)
    expected = whole(net, z, image)
    for rows in (1, 3, 4, 11):
        assert max(map(distance, tiled(net, z, image, rows), expected)) < 1e-5


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_in_float64_only_the_final_rounding_differs(config: dict[str, Any]):
    net, z = random_autoencoder(2, **config).double(), latent(7, 5).double()
    image = latent(7 * net.downscale, 5 * net.downscale).double()
    for result, expected in zip(tiled(net, z, image, 3), whole(net, z, image), strict=True):
        assert torch.allclose(result, expected, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_bands_of_the_whole_image_are_the_untiled_computation(config: dict[str, Any]):
    net, z = random_autoencoder(3, **config), latent(3, 4)
    image = latent(3 * net.downscale, 4 * net.downscale)
    for rows in (3 * net.downscale, 10_000):
        assert all(map(torch.equal, tiled(net, z, image, rows), whole(net, z, image)))


def test_images_of_odd_size_are_encoded_alike():
    net, image = random_autoencoder(4, channels=[4, 8, 8]), latent(15, 13)
    with torch.no_grad():
        expected = net.encode(image)
    assert distance(encode_tiled(net, image, 4).mean, expected.mean) < 1e-5


def test_bfloat16_is_as_close_to_float32_as_untiled():
    net, z = random_autoencoder(5, channels=[8, 16], layers_per_block=2), latent(8, 8)
    image = latent(16, 16)
    exact = whole(net, z, image)
    net, z, image = net.to(torch.bfloat16), z.to(torch.bfloat16), image.to(torch.bfloat16)
    untiled, result = whole(net, z, image), tiled(net, z, image, 5)
    for a, b, reference in zip(result, untiled, exact, strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert (a - reference).norm() < 1.25 * (b - reference).norm()
        assert (a - b).norm() < 0.03 * reference.norm()


@pytest.mark.parametrize("rows", [1, 3, 4, 50])
@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_group_statistics_are_those_of_the_whole_map(mean: float, rows: int):
    """Sums of squares in float32 lose four digits more of the variance at the mean of 1000."""
    x = latent(11, 7).repeat(1, 2, 1, 1) * torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0, 5.0]).view(-1, 1, 1)
    x = x + mean + torch.arange(11.0)[:, None]  # a mean that differs between bands
    result = group_moments(held(x, 11), 3, rows)
    expected = x.double().view(2, 3, -1)
    assert torch.allclose(result[0].double(), expected.mean(-1), rtol=1e-6, atol=1e-6)
    assert torch.allclose(result[1].double(), expected.var(-1, correction=0), rtol=2e-5)


def test_norm_is_that_of_torch():
    norm = torch.nn.GroupNorm(3, 6, eps=0.1)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = latent(11, 7).repeat(1, 2, 1, 1)
    with torch.no_grad():
        assert distance(norm_silu(norm, held(x, 11), 4)(x), F.silu(norm(x))) < 1e-6


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_resampling_equals_its_block(rows: int):
    up, down, x = Upsample(3), Downsample(3, symmetric=False), latent(6, 5)
    with torch.no_grad():
        assert distance(stored(upsample(up, held(x, 6)), rows).read(0, 12), up(x)) < 1e-6
        assert distance(stored(downsample(down, held(x, 6)), rows).read(0, 3), down(x)) < 1e-6


def test_bands_cover_all_rows_once():
    assert list(bands(7, 3)) == [(0, 3), (3, 6), (6, 7)]
    assert list(bands(2, 3)) == [(0, 2)]


def test_arguments_are_left_alone_and_no_graph_is_kept():
    net = random_autoencoder(6, channels=[4, 8])
    z, image = latent(6, 4).requires_grad_(), latent(12, 8)
    before = z.detach().clone(), image.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    results = tiled(net, z, image, 3)
    assert not any(result.requires_grad for result in results)
    assert torch.equal(z, before[0])
    assert torch.equal(image, before[1])
    assert all(torch.equal(v, before[2][k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("rows", [0, -4])
@pytest.mark.parametrize("function", [decode_tiled, encode_tiled])
def test_bands_without_rows_are_refused(function: Callable[..., Tensor | Posterior], rows: int):
    net = random_autoencoder(0, channels=[4])
    with pytest.raises(ValueError, match=rf"rows must be at least 1, got {rows}"):
        function(net, latent(4, 4), rows)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages made within it; `peak` at any one time, `largest` of a single one."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.now = self.peak = self.largest = 0

    def forget(self, key: int) -> None:
        self.now -= self.live.pop(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {x.untyped_storage()._cdata for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_iter(result):
            if not isinstance(x, Tensor):
                continue
            storage = x.untyped_storage()
            if (key := storage._cdata) not in self.live and key not in known:
                self.live[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak, self.largest = max(self.peak, self.now), max(self.largest, storage.nbytes())
                weakref.finalize(storage, self.forget, key)
        return result


def live_bytes(function: Callable[..., Any], *args: Any) -> LiveBytes:
    with torch.no_grad(), LiveBytes() as mode:
        function(*args)
    assert mode.now == 0  # all that was made is gone
    return mode


def test_live_bytes_count_storages_as_long_as_a_view_lives():
    with LiveBytes() as mode:
        x = torch.zeros(100)[:50].view(5, 10)
        assert mode.now == 400
        y = x + 1
        assert mode.now == 600
        x.add_(1)
        del x
        assert mode.now == 200
        del y
    assert (mode.now, mode.peak, mode.largest) == (0, 600, 400)


@pytest.mark.parametrize(
    ("tiled", "size", "maps"), [(decode_tiled, (32, 16), 1.5), (encode_tiled, (256, 128), 1.25)]
)
def test_memory_is_that_of_the_largest_map_and_of_the_level_beside_it(
    tiled: Callable[..., Any], size: tuple[int, int], maps: float
):
    """With the widths of Stable Diffusion, in units of the map of the first width at the size of the image.

    The decoder holds one such map, updated in place, and at first the level before, of twice the width at a
    quarter of the size; the encoder holds one and the map of the same width that it is halved to.
    """
    net, x = random_autoencoder(7, channels=[16, 32, 64, 64], layers_per_block=2), latent(*size)[:1]
    unit = 4 * 16 * 256 * 128
    untiled = live_bytes(net.decode if tiled is decode_tiled else net.encode, x)
    result = live_bytes(tiled, net, x, 4)
    assert result.largest == unit
    assert result.peak < (maps + 0.35) * unit  # and the bands at work
    assert 3 * result.peak < untiled.peak
