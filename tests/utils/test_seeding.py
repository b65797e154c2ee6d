import random

import numpy as np
import pytest
import torch

from ldm.utils import set_seed


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_a_seed_repeats_the_draws_of_all_generators():
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    set_seed(5)
    first = draws()
    assert draws() != first
    set_seed(5)
    assert draws() == first
    with pytest.raises(ValueError, match="Seed must be between 0"):
        set_seed(-1)
    random.setstate(state[0]), np.random.set_state(state[1]), torch.set_rng_state(state[2])  # noqa: NPY002
