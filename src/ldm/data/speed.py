"""Speed of a loader, and the number of worker processes to give it."""

import time
from collections.abc import Mapping
from typing import Any


def images_per_second(data: Any, seconds: float) -> float:
    """Speed of a training loader, measured for about `seconds` after its first batch.

    Args:
        data: a LightningDataModule of `ldm.data`.
        seconds: of the measurement; whole batches are timed.
    """
    loader = iter(data.train_dataloader())
    next(loader)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        images += len(next(loader)["key"])
    return images / (time.perf_counter() - start)


def recommended_workers(speeds: Mapping[int, float]) -> int:
    """The smallest number of workers whose speed is within 5% of the best.

    Args:
        speeds: number of workers -> images a second.
    """
    best = max(speeds.values())
    return min(workers for workers, speed in speeds.items() if speed >= 0.95 * best)
