"""Random draws as functions of (seed, purpose, key, visit): a counter-based generator on integer tensors.

64-bit words are hashed by the finaliser of SplitMix64 (Steele, Lea and Flood 2014, with constants of Stafford
2011), chained over the words of the counter as in Salmon et al. 2011 (Random123). There is no state: value i
of a row depends on its own counter only. Each link of the chain is a bijection: in two rows that differ in
the key, the seed or the visit alone, no two words of the same index are equal.

The draws are part of what a run is: other ones would change the pairs held out of training and break
resuming, so tests hold them to recorded values, and checkpoints and recipes name their `VERSION`.
"""

import functools
import hashlib
import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

VERSION = 2  # of the draws; 1 had a state of 32 bits


def _signed(word: int) -> int:
    """The 64-bit two's complement of an unsigned word."""
    return (word + 2**63) % 2**64 - 2**63


GOLDEN_RATIO = _signed(0x9E3779B97F4A7C15)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of 64-bit words, which torch only has as an arithmetic one."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


@functools.lru_cache(maxsize=4096)
def _word(purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little", signed=True)


def _words(
    seed: int, purpose: str, key: Tensor, visit: int | Tensor, shape: tuple[int, ...]
) -> Int64[Tensor, "b *shape"]:
    """Uniform 64-bit words, (b, *shape)."""
    row = torch.tensor(_signed(seed % 2**64 + _word(purpose) % 2**64), device=key.device)
    row = _mix(key ^ _mix(row))
    row = _mix(row + torch.as_tensor(visit, device=key.device) * GOLDEN_RATIO)
    counter = torch.arange(1, math.prod(shape) + 1, device=key.device) * GOLDEN_RATIO
    return _mix(row[:, None] ^ _mix(counter)).view(len(key), *shape)


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
    return _shift(_words(seed, purpose, key, visit, shape), 40).float() * 2.0**-24


def normal(
    seed: int, purpose: str, key: Int64[Tensor, " b"], visit: int | Tensor, shape: tuple[int, ...] = ()
) -> Float[Tensor, "b *shape"]:
    """Standard normal numbers, float32, (b, *shape) (Box & Muller 1958). Args as in `uniform`."""
    words = _words(seed, purpose, key, visit, shape)
    u = (_shift(words, 32).float() + 0.5) * 2.0**-32
    angle = (words & 0xFFFFFF).float() * (2.0**-24 * 2.0 * torch.pi)
    return (-2.0 * u.log()).sqrt() * angle.cos()


def randint(
    seed: int,
    purpose: str,
    key: Int64[Tensor, " b"],
    visit: int | Tensor,
    high: int,
    shape: tuple[int, ...] = (),
) -> Int64[Tensor, "b *shape"]:
    """Integers in [0, high), high <= 2^31, int64, (b, *shape). Other args as in `uniform`."""
    return _shift(_words(seed, purpose, key, visit, shape), 32) * high >> 32


def permutation(seed: int, purpose: str, n: int, visit: int) -> Int64[Tensor, " n"]:
    """A permutation of 0 .. n-1."""
    return torch.argsort(_words(seed, purpose, torch.arange(n), visit, ()))
