"""Random draws as functions of (seed, purpose, key, visit): a counter-based generator on integer tensors.

The hash is the 32-bit finaliser "lowbias32" (Wellons 2018), chained over the words of the counter as in
Salmon et al. 2011 (Random123). There is no state: value i of a row depends on its own counter only.

The draws are part of what a run is: other ones would change the pairs held out of training and break
resuming, so tests hold them to recorded values.
"""

import zlib

import torch
from jaxtyping import Float, Int64
from torch import Tensor

MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & MASK
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & MASK
    return x ^ (x >> 15)


def _bits(
    seed: int, purpose: str, key: Tensor, visit: int | Tensor, shape: tuple[int, ...], stream: int = 0
) -> Tensor:
    """Uniform 32-bit integers as int64, (b, *shape)."""
    n = 1
    for size in shape:
        n *= size
    high = (key >> 32) & MASK
    row = _mix(key & MASK) ^ high
    row = _mix((row + (seed & MASK)) & MASK)
    row = _mix(row ^ (seed >> 32 & MASK) ^ zlib.crc32(purpose.encode()))
    row = _mix((row + torch.as_tensor(visit, device=key.device) * 0x9E3779B9 + stream * 0x85EBCA6B) & MASK)
    # For each upper half, row is a bijection of the lower one: with both, no two keys share their draws.
    salt = (row + _mix(high)) & MASK
    counter = torch.arange(n, device=key.device, dtype=torch.int64) * 0x9E3779B9 & MASK
    return _mix(_mix(counter[None] ^ row[:, None]) + salt[:, None] & MASK).view(len(key), *shape)


def uniform(
    seed: int, purpose: str, key: Int64[Tensor, " b"], visit: int | Tensor, shape: tuple[int, ...] = ()
) -> Float[Tensor, "b *shape"]:
    """Uniform numbers in [0, 1), float32, (b, *shape).

    Args:
        seed: of the run.
        purpose: what the draw is for; other purposes give independent draws.
        key: sample keys.
        visit: how often the sample was seen before (or the step), one number or one per key.
        shape: of the draw of each key.
    """
    return (_bits(seed, purpose, key, visit, shape) >> 8).float() * 2.0**-24


def normal(
    seed: int, purpose: str, key: Int64[Tensor, " b"], visit: int | Tensor, shape: tuple[int, ...] = ()
) -> Float[Tensor, "b *shape"]:
    """Standard normal numbers, float32, (b, *shape) (Box & Muller 1958). Args as in `uniform`."""
    u = ((_bits(seed, purpose, key, visit, shape) >> 8).float() + 0.5) * 2.0**-24
    angle = (_bits(seed, purpose, key, visit, shape, stream=1) >> 8).float() * (2.0**-24 * 2.0 * torch.pi)
    return (-2.0 * u.log()).sqrt() * angle.cos()


def randint(
    seed: int,
    purpose: str,
    key: Int64[Tensor, " b"],
    visit: int | Tensor,
    high: int,
    shape: tuple[int, ...] = (),
) -> Int64[Tensor, "b *shape"]:
    """Integers in [0, high), int64, (b, *shape). Args as in `uniform`."""
    return _bits(seed, purpose, key, visit, shape) * high >> 32


def permutation(seed: int, purpose: str, n: int, visit: int) -> Int64[Tensor, " n"]:
    """A permutation of 0 .. n-1."""
    key = torch.arange(n)
    high, low = (_bits(seed, purpose, key, visit, (), stream=s) for s in (0, 1))
    return torch.argsort((high << 31) ^ low, stable=True)
