"""Memory and FLOPs of a training step as functions of the batch size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldm.planning.memory_tracker import MemoryTracker


@dataclass(frozen=True, kw_only=True)
class SimulatedStep:
    """Needs of a step; sizes in bytes.

    Args:
        parameters: number of trained parameters.
        state: bytes that are in use all the time: parameters, optimizer, ema, frozen.
        gradients: bytes of gradients alive after each op.
        fixed: bytes of everything else alive after each op, as far as it does not depend on the batch.
        per_image: bytes that each image of the batch adds to `fixed`.
        blocks: bytes of the parameters of each block of the backbone (`strategy.blocks`).
        flops: of a step for an image, by torch's formulas: of the "trained" nets' forward pass, of the
            "frozen" ones', and of the "backward" pass, including recomputed blocks.
        passes: cost of training the "trained" nets in forward passes: 3, or 2 if the weights are frozen and
            only gradients of activations are computed.
    """

    parameters: int
    state: dict[str, int]
    gradients: np.ndarray
    fixed: np.ndarray
    per_image: np.ndarray
    blocks: tuple[int, ...]
    flops: dict[str, int]
    passes: int = 3

    @property
    def model_flops(self) -> int:
        """FLOPs of training on an image as counted in MFU, without recomputation."""
        return self.passes * self.flops["trained"] + self.flops["frozen"]

    def peak(self, batch: int, share: float = 1.0) -> tuple[int, int]:
        """Bytes of (gradients, activations and everything else) at the moment when their sum is largest.

        Args:
            batch: images at once.
            share: part of each gradient that a rank keeps.
        """
        rest = self.fixed + self.per_image * batch
        most = int(np.argmax(share * self.gradients + rest))
        return round(share * self.gradients[most]), round(rest[most])


def linear_in_batch(batches: Sequence[int], trackers: Sequence[MemoryTracker]) -> dict[str, Any]:
    """Memory and FLOPs as linear functions of the batch: exact, as the ops are the same for all batches.

    Args:
        batches: sizes of the simulated batches, one or two.
        trackers: of their steps.

    Returns: arguments of `SimulatedStep`.
    """
    (gradients, small), (_, large) = (tracker.history() for tracker in (trackers[0], trackers[-1]))
    more = batches[-1] - batches[0]
    slope = (large - small) / max(more, 1)
    flops = {
        name: (trackers[-1].flops[name] - few) // more if more else few // batches[0]
        for name, few in trackers[0].flops.items()
    }
    return {"gradients": gradients, "fixed": small - batches[0] * slope, "per_image": slope, "flops": flops}
