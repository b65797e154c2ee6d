"""Exact encoding and decoding of large images in little memory, in horizontal bands.

Tiles that are run through the whole autoencoder on their own normalise and attend within themselves, so they
differ from the whole image and their seams have to be blended. Here each layer is computed band by band
instead: a convolution reads the rows above and below its band as well, a GroupNorm takes its statistics over
all bands first. A residual block is run once for the statistics of its second norm and once for its output,
so what exists whole is its input and its output, where possible in the same memory. The middle block runs as
it is.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.models.blocks import Downsample, ResBlock, Upsample
from ldm.models.vae import AutoencoderKL, Posterior
from ldm.utils.errors import UserError

HALO = 2  # rows that a residual block sees above and below each of its own, one for each convolution


@dataclass(frozen=True)
class FeatureMap:
    """A feature map (b, c, height, w) that need not exist: its rows are made when they are read.

    Args:
        height: number of rows.
        read: (top, bottom) -> the rows top <= row < bottom, (b, c, bottom - top, w).
        memory: the tensor of all rows, if there is one and it may be overwritten.
    """

    height: int
    read: Callable[[int, int], Tensor]
    memory: Tensor | None = None


def bands(height: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yields the (top, bottom) of bands of `rows` rows; the last may be smaller."""
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def held(tensor: Tensor, height: int, first: int = 0) -> FeatureMap:
    """The map of `height` rows of which `tensor` holds those from `first` on."""
    return FeatureMap(height, lambda top, bottom: tensor[:, :, top - first : bottom - first])


def owned(tensor: Tensor) -> FeatureMap:
    """The map whose rows `tensor` holds, to be overwritten when they are not needed any more."""
    return replace(held(tensor, tensor.shape[2]), memory=tensor)


def pointwise(function: Callable[[Tensor], Tensor], x: FeatureMap) -> FeatureMap:
    """The map function(x) for a function that mixes no pixels."""
    return FeatureMap(x.height, lambda top, bottom: function(x.read(top, bottom)))


def stored(x: FeatureMap, rows: int, memory: Tensor | None = None) -> FeatureMap:
    """The map x with all its rows in memory, made in bands.

    Args:
        x: the map, which reads its bands from no more than HALO rows above.
        rows: rows of a band.
        memory: what to write to, perhaps the very tensor that x is made from; a new one if None.

    Returns: the map, whose `memory` is owned by the caller.
    """
    waiting: deque[tuple[int, int, Tensor]] = deque()
    for top, bottom in bands(x.height, rows):
        waiting.append((top, bottom, x.read(top, bottom)))
        if memory is None:
            b, c, _, w = waiting[0][2].shape
            memory = waiting[0][2].new_empty(b, c, x.height, w)
        unread = x.height if bottom == x.height else bottom - HALO  # rows above are not read any more
        while waiting and waiting[0][1] <= unread:
            start, end, band = waiting.popleft()
            memory[:, :, start:end] = band
            del band  # or it would stay while the next one is made
    assert memory is not None
    return owned(memory)


def padded(x: FeatureMap, top: int, bottom: int, left: int, right: int) -> Float[Tensor, "b c h w"]:
    """Rows top <= row < bottom of x, zero outside of the map, with columns of zeros at both sides."""
    inside = x.read(max(top, 0), min(bottom, x.height))
    return F.pad(inside, (left, right, max(-top, 0), max(bottom - x.height, 0)))


def convolve(conv: nn.Conv2d, x: FeatureMap) -> FeatureMap:
    """The 3x3 convolution of x with one pixel of zeros around."""

    def read(top: int, bottom: int) -> Tensor:
        return F.conv2d(padded(x, top - 1, bottom + 1, 1, 1), conv.weight, conv.bias)

    return FeatureMap(x.height, read)


def downsample(block: Downsample, x: FeatureMap) -> FeatureMap:
    """The strided convolution of `Downsample` with symmetric=False."""

    def read(top: int, bottom: int) -> Tensor:
        near = padded(x, 2 * top, 2 * bottom + 1, 0, 1)
        return F.conv2d(near, block.conv.weight, block.conv.bias, stride=2)

    return FeatureMap(x.height // 2, read)


def merge_taps(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The two taps that three taps on pixels repeated twice come to, at even and at odd positions."""
    before, centre, after = weight.unbind(dim)
    return torch.stack((before, centre + after), dim), torch.stack((before + centre, after), dim)


def upsample(block: Upsample, x: FeatureMap) -> FeatureMap:
    """Nearest neighbours and 3x3 convolution, as four 2x2 convolutions of the small map, one per parity.

    With 4/9 of the products it makes up for being read more than once, so that the largest map of a decoder,
    the upsampled one at the width of the level before, never exists.
    """
    conv = block.conv
    kernels = [
        [kernel.to(conv.weight.dtype) for kernel in merge_taps(half, 3)]
        for half in merge_taps(wide(conv.weight), 2)
    ]  # [row parity][column parity]

    def read(top: int, bottom: int) -> Tensor:
        first, last = top // 2, (bottom + 1) // 2
        near = padded(x, first - 1, last + 1, 1, 1)
        b, _, h, w = near.shape
        out = near.new_empty(b, conv.out_channels, 2 * (h - 2), 2 * (w - 2))
        for i in (0, 1):
            for j in (0, 1):
                corner = near[:, :, i : i + h - 1, j : j + w - 1]
                out[:, :, i::2, j::2] = F.conv2d(corner, kernels[i][j], conv.bias)
        return out[:, :, top - 2 * first : bottom - 2 * first]

    return FeatureMap(2 * x.height, read)


def group_moments(
    x: FeatureMap, groups: int, rows: int
) -> tuple[Float[Tensor, "b {groups}"], Float[Tensor, "b {groups}"]]:
    """Mean and (biased) variance of each group of channels of x, in at least float32.

    Those of the bands are taken first and then combined (Chan et al. 1983), which loses no digits where the
    mean is large, unlike sums of squares.
    """
    shares, variances, means = [], [], []
    for top, bottom in bands(x.height, rows):
        # over (b, groups, c / groups, rows, w); a band with a name would stay while the next one is made
        var, mean = torch.var_mean(
            wide(x.read(top, bottom)).unflatten(1, (groups, -1)), dim=(2, 3, 4), correction=0
        )
        shares.append((bottom - top) / x.height)
        variances.append(var)
        means.append(mean)
    share, var, mean = var.new_tensor(shares).view(-1, 1, 1), torch.stack(variances), torch.stack(means)
    centre = (share * mean).sum(0)
    return centre, (share * (var + (mean - centre) ** 2)).sum(0)


def norm_silu(norm: nn.GroupNorm, x: FeatureMap, rows: int) -> Callable[[Tensor], Tensor]:
    """The function band -> silu(norm(band)) with the statistics of all of x."""
    width = norm.num_channels // norm.num_groups
    mean, var = (m.repeat_interleave(width, 1) for m in group_moments(x, norm.num_groups, rows))  # (b, c)
    scale = (var + norm.eps).rsqrt() * wide(norm.weight)
    shift = (wide(norm.bias) - mean * scale)[:, :, None, None]  # (b, c, 1, 1)
    scale = scale[:, :, None, None]
    return lambda band: F.silu(torch.addcmul(shift, wide(band), scale).to(band.dtype), inplace=True)


def wide(x: Tensor) -> Tensor:
    """Returns x in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def residual(block: ResBlock, x: FeatureMap, rows: int) -> FeatureMap:
    """The output of a residual block without time embedding and dropout; the statistics are taken at once."""
    activate1 = norm_silu(block.norm1, x, rows)

    def hidden(x: FeatureMap) -> FeatureMap:
        return convolve(block.conv1, pointwise(activate1, x))

    activate2 = norm_silu(block.norm2, hidden(x), rows)

    def read(top: int, bottom: int) -> Tensor:
        first, last = max(top - HALO, 0), min(bottom + HALO, x.height)
        near = held(x.read(first, last), x.height, first)
        out = convolve(block.conv2, pointwise(activate2, hidden(near))).read(top, bottom)
        return out.add_(block.skip(near.read(top, bottom)))

    return FeatureMap(x.height, read)


def run(blocks: Iterable[nn.Module], x: FeatureMap, rows: int) -> FeatureMap:
    """The map after residual blocks and resamplings.

    An upsampled map, read by the following block, and a map that is downsampled next, which is read only
    once, are not stored.
    """
    for block, following in pairwise((*blocks, None)):
        if isinstance(block, Upsample):
            x = upsample(block, x)
        elif isinstance(block, Downsample):
            x = stored(downsample(block, x), rows)
        elif isinstance(following, Downsample):
            x = residual(cast(ResBlock, block), x, rows)
        else:
            block = cast(ResBlock, block)
            memory = x.memory if isinstance(block.skip, nn.Identity) else None
            x = stored(residual(block, x, rows), rows, memory)
    return x


def check_rows(rows: int) -> None:
    """Raises ValueError if there are no rows in a band."""
    if rows < 1:
        raise UserError(f"rows must be at least 1, got {rows}")


@torch.no_grad()
def decode_tiled(
    autoencoder: AutoencoderKL, z: Float[Tensor, "b k h w"], rows: int
) -> Float[Tensor, "b c h2 w2"]:
    """autoencoder.decode(z), up to rounding, computed in bands; without gradient.

    Args:
        autoencoder: the autoencoder, all of it on the device of z.
        z: (unnormalised) latent.
        rows: rows of a band at every resolution; from the image's height on, it is decoded whole.

    Returns: the image, h2 = h * downscale.

    Raises: ValueError if rows < 1.
    """
    check_rows(rows)
    decoder, height = autoencoder.decoder, z.shape[2] * autoencoder.downscale
    if rows >= height:
        return autoencoder.decode(z)
    blocks = [block for level in decoder.up for block in level.children()]
    # no name for the first map, which would keep it in memory
    x = run(blocks, owned(decoder.mid(decoder.conv_in(autoencoder.post_quant_conv(z)))), rows)
    x = convolve(decoder.conv_out, pointwise(norm_silu(decoder.norm_out, x, rows), x))
    image = stored(pointwise(Tensor.float, x), rows).read(0, height)
    if autoencoder.patch_shortcut:
        image = image + F.pixel_shuffle(autoencoder.patch_out(z), autoencoder.downscale)
    return image


@torch.no_grad()
def encode_tiled(autoencoder: AutoencoderKL, image: Float[Tensor, "b c h w"], rows: int) -> Posterior:
    """autoencoder.encode(image), up to rounding, computed in bands; without gradient.

    Args:
        autoencoder: the autoencoder, all of it on the device of the image.
        image: in [-1, 1]; sizes divisible by `downscale`.
        rows: rows of a band at every resolution; from the image's height on, it is encoded whole.

    Returns: the posterior of the (unnormalised) latent.

    Raises: ValueError if rows < 1.
    """
    check_rows(rows)
    encoder, height = autoencoder.encoder, image.shape[2]
    if rows >= height:
        return autoencoder.encode(image)
    x = convolve(encoder.conv_in, held(image, height))
    x = run([block for level in encoder.down for block in level.children()], x, rows)
    moments = encoder.conv_out(F.silu(encoder.norm_out(encoder.mid(x.read(0, x.height)))))
    mean, logvar = autoencoder.quant_conv(moments).chunk(2, dim=1)
    if autoencoder.patch_shortcut:
        mean = mean + autoencoder.patch_in(image)
    return Posterior(mean.float(), logvar.float().clamp(-30.0, 20.0))
