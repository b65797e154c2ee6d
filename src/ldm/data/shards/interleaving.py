"""An endless sequence of classes in exact proportion, of which any place is found at once."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import gcd

import torch

from ldm.diffusion import random
from ldm.utils.errors import UserError

GOLDEN = 0.6180339887498949
CANDIDATES = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class Interleaving:
    """The sequence whose t-th member is the class that holds (p t + r) mod n, n being the sum of all counts.

    Class i holds as many of the numbers 0 .. n - 1 as its count says. Since p and n have no common divisor,
    any n members that follow one another hold class i exactly counts[i] times; since p / n is near the golden
    ratio, with small partial quotients, any part of the sequence holds nearly its share. How often a class
    stands before place t is a sum of floors, found as by Euclid's algorithm: O(log n), wherever t is.

    Args:
        counts: of each class, at least 0, not all of them.
        seed: of r, where the sequence begins.
    """

    counts: Sequence[int]
    seed: int
    total: int = field(init=False)
    factor: int = field(init=False)
    shift: int = field(init=False)
    _ends: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ends = list(accumulate(self.counts))
        if not ends or ends[-1] < 1 or min(self.counts) < 0:
            raise UserError(f"counts must be at least 0 and not all 0, got {list(self.counts)}")
        shift = random.randint(self.seed, "interleaving", torch.zeros(1, dtype=torch.int64), 0, 2**31)
        object.__setattr__(self, "_ends", ends)
        object.__setattr__(self, "total", ends[-1])
        object.__setattr__(self, "factor", _factor(ends[-1]))
        object.__setattr__(self, "shift", int(shift[0]) * ends[-1] >> 31)

    def at(self, t: int) -> tuple[int, int]:
        """The class at a place, and how often it stands before it.

        Args:
            t: the place, at least 0.
        """
        i = bisect_right(self._ends, (self.factor * t + self.shift) % self.total)
        return i, self.before(t, i)

    def before(self, t: int, i: int) -> int:
        """Number of occurrences of class i at the places 0 .. t - 1."""
        return self._below(t, self._ends[i]) - self._below(t, self._ends[i] - self.counts[i])

    def _below(self, t: int, c: int) -> int:
        """At how many places before t the number is below c: there, adding n - c does not carry."""
        n, p, r = self.total, self.factor, self.shift
        return floor_sum(t, n, p, r) - floor_sum(t, n, p, r + n - c) + t


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Sum of floor((a i + b) / m) over i = 0 .. n - 1, in O(log m) steps, as by Euclid's algorithm.

    Args:
        n: number of terms.
        m: at least 1.
        a, b: at least 0.
    """
    total = 0
    while n > 0:
        total += (a // m) * (n * (n - 1) // 2) + (b // m) * n
        a, b = a % m, b % m
        last = a * n + b
        if last < m:
            break
        n, b, m, a = last // m, last % m, a, m  # the points below the line, counted along the other axis
    return total


def quotients(p: int, n: int) -> list[int]:
    """Partial quotients of the continued fraction of p / n."""
    found = []
    while n:
        found.append(p // n)
        p, n = n, p % n
    return found


def _factor(n: int) -> int:
    """Of the numbers near n times the golden ratio without a common divisor: that of smallest quotients."""
    middle = round(n * GOLDEN)
    near = [p for p in range(middle - CANDIDATES, middle + CANDIDATES + 1) if 0 < p < n and gcd(p, n) == 1]
    return min(near, key=lambda p: (sum(quotients(p, n)), p), default=1)
