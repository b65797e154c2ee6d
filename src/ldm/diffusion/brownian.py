"""The noise of stochastic solvers: independent draws, or increments of one path for any number of steps."""

from collections import Counter
from collections.abc import Callable

from torch import Tensor

from ldm.utils.errors import UserError

DEPTH = 17
NOISES = ("independent", "brownian")

Normal = Callable[[int], Tensor]
"""Maps the number of a draw to standard normal numbers."""


class BrownianPath:
    """Normalised increments of Brownian motion over the times [-1, T-1], for `sample`.

    Solvers that step more finely then refine one path (the Brownian tree of k-diffusion, Crowson 2022; its
    clock is sigma). The motion is known at 2^DEPTH + 1 equally spaced times, by Levy's construction from the
    ends inwards, and linear in between; increments are divided by their exact standard deviation. A repeated
    request for the same transition draws from a new path.

    Args:
        normal: maps the number of a draw to standard normal numbers; called with nodes of the construction.
        num_train_timesteps: T.
    """

    def __init__(self, normal: Normal, num_train_timesteps: int) -> None:
        self.normal, self.length = normal, num_train_timesteps
        self._asked: Counter[tuple[float, float]] = Counter()
        self._nodes: dict[int, Tensor] = {}  # those of the last way down, which the next one shares

    def __call__(self, n: int, t: Tensor, s: Tensor) -> Tensor:
        """Standard normal numbers for the n-th draw of a run, from time t (1,) to time s (1,)."""
        high, low = ((float(time) + 1) / self.length for time in (t, s))
        path = self._asked[high, low]
        self._asked[high, low] += 1
        return (self.at(high, path) - self.at(low, path)) / deviation(low, high)

    def at(self, u: float, path: int = 0) -> Tensor:
        """The motion at a share u of the way from -1 to T-1, zero at u = 0, of unit variance at 1."""
        first, known = path << (DEPTH + 1), self._nodes
        self._nodes = {}

        def draw(node: int) -> Tensor:
            found = self._nodes[node] = known[node] if node in known else self.normal(node)
            return found

        left: Tensor | float = 0.0
        right, low, high, node = draw(first), 0.0, 1.0, 1
        for _ in range(DEPTH):
            middle = (low + high) / 2
            value = (left + right) / 2 + ((high - low) / 4) ** 0.5 * draw(first + node)
            node *= 2
            if u < middle:
                right, high = value, middle
            else:
                left, low, node = value, middle, node + 1
        return left + (u - low) / (high - low) * (right - left)


def deviation(low: float, high: float) -> float:
    """Standard deviation of the increment between two shares of the way, of a motion that is linear in cells.

    Raises:
        ValueError: if they are the same.
    """
    if not low < high:
        raise UserError(f"a transition must lead down in time, got {high} to {low} of the way")
    cells, first, last = 2**DEPTH, int(low * 2**DEPTH), int(high * 2**DEPTH)
    if first == last:
        return float((high - low) * cells**0.5)
    ends = ((first + 1 - low * cells) ** 2 + (high * cells - last) ** 2) / cells
    return float((ends + (last - first - 1) / cells) ** 0.5)


def step_noise(
    kind: str, normal: Normal, num_train_timesteps: int
) -> Callable[[int, Tensor, Tensor], Tensor]:
    """The noise source that `sample` calls.

    Args:
        kind: "independent" or "brownian".
        normal: maps the number of a draw to standard normal numbers shaped as the data.
        num_train_timesteps: T.

    Raises:
        ValueError: for another kind.
    """
    if kind not in NOISES:
        raise UserError(f"noise must be one of {NOISES}, got {kind!r}")
    if kind == "brownian":
        return BrownianPath(normal, num_train_timesteps)
    return lambda n, t, s: normal(n)
