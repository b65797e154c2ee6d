"""The generators of a process, for scripts of one's own: runs and samples of ldm draw from none of them."""

import random

import numpy as np
import torch


def set_seed(seed: int) -> None:
    """Seeds the generators of Python, numpy and torch on all devices.

    Args:
        seed: in [0, 2^32).

    Raises: ValueError for another number.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the legacy generator is what other libraries draw from
    torch.manual_seed(seed)
