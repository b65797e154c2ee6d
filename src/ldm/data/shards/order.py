"""The order of training over shards: a pure function of (seed, epoch), the same for any number of ranks."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from ldm.diffusion import random
from ldm.utils.errors import UserError


@dataclass(frozen=True, eq=False, kw_only=True)
class SampleOrder:
    """An endless sequence of samples in which each stands exactly once in every epoch.

    An epoch is laid out as all shards one after the other, in an order drawn for it. The layout is cut into
    `lanes` equal pieces, which are read side by side: place p of an epoch is place p // lanes of lane
    p mod lanes. Within a lane, windows of `window` samples are permuted. So at any time about as many shards
    are read as there are lanes. Samples that do not fill all lanes end the epoch. Batches are cut from the
    sequence and may hold the end of one epoch and the start of the next: nothing is dropped.

    Finding place q costs a search among the shards and one permutation of a window, wherever q is.

    Args:
        shard_of: shard of each sample that is used, not decreasing, (n,).
        seed: of the order.
        lanes: number of pieces.
        window: samples that are permuted together, at most.
    """

    shard_of: np.ndarray
    seed: int
    lanes: int = 8
    window: int = 4096
    _starts: np.ndarray = field(init=False, repr=False)
    _sizes: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.shard_of) == 0:
            raise UserError("no sample is left to train on")
        for name in ("lanes", "window"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        starts = np.concatenate([[0], np.flatnonzero(np.diff(self.shard_of)) + 1])
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_sizes", np.diff(starts, append=len(self.shard_of)))
        object.__setattr__(self, "layout", lru_cache(maxsize=2)(self._layout))
        object.__setattr__(self, "shuffled", lru_cache(maxsize=4 * self.lanes)(self._shuffled))

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.shard_of)

    def rows(self, start: int, count: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Samples and their epochs at the places start .. start + count - 1 of the sequence.

        Args:
            start: first place.
            count: number of places.
        """
        q = np.arange(start, start + count, dtype=np.int64)
        epochs = q // len(self)
        rows = np.empty_like(q)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._of_epoch(int(epoch), q[chosen] % len(self))
        return rows, epochs

    def _of_epoch(self, epoch: int, p: np.ndarray) -> np.ndarray:
        """Samples at places of an epoch."""
        length = len(self) // self.lanes
        lane, r = p % self.lanes, p // self.lanes
        place = np.where(r < length, lane * length + r, p)  # what fills no lane stands at the end
        window = r // self.window
        for lane_, window_ in set(zip(lane[r < length].tolist(), window[r < length].tolist(), strict=True)):
            chosen = (lane == lane_) & (window == window_) & (r < length)
            first = window_ * self.window
            order = self.shuffled(epoch, lane_, window_, min(self.window, length - first))  # type: ignore[attr-defined]
            place[chosen] = lane_ * length + first + order[r[chosen] - first]
        shards, ends = self.layout(epoch)  # type: ignore[attr-defined]
        i = np.searchsorted(ends, place, side="right")
        return self._starts[shards[i]] + place - (ends[i] - self._sizes[shards[i]])

    def _layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards in the order of an epoch, and where each ends."""
        shards = random.permutation(self.seed, "shards", len(self._sizes), epoch).numpy()
        return shards, np.cumsum(self._sizes[shards])

    def _shuffled(self, epoch: int, lane: int, window: int, size: int) -> np.ndarray:
        """The order within a window."""
        return random.permutation(self.seed, f"window {lane} {window}", size, epoch).numpy()
