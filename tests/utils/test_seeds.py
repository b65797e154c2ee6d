import numpy as np
import pytest
import torch

from ldm.utils.seeds import as_seed, as_seeds


@pytest.mark.parametrize(
    "seed", [7, np.int64(7), np.uint8(7), np.array(7), torch.tensor(7), torch.tensor(7, dtype=torch.uint8)]
)
def test_a_seed_is_a_whole_number_of_any_type(seed):
    assert as_seeds(seed) == 7
    assert type(as_seeds(seed)) is int


@pytest.mark.parametrize("seeds", [[1, 2], (1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2])])
def test_seeds_are_any_sequence_of_whole_numbers(seeds):
    found = as_seeds(seeds)
    assert found == [1, 2]
    assert [type(seed) for seed in found] == [int, int]


@pytest.mark.parametrize("seed", [-1, 2**64, np.int64(-1), torch.tensor(-3)])
def test_a_seed_out_of_range_names_the_range(seed):
    with pytest.raises(ValueError, match=rf"^seed must be in \[0, 2\^64\), got {int(seed)}$"):
        as_seed(seed)


@pytest.mark.parametrize(
    "seed",
    [
        None,
        "7",
        "random",
        7.0,
        1e3,
        True,
        np.float32(7),
        np.bool_(True),
        torch.tensor(7.0),
        torch.tensor(True),
    ],
)
def test_anything_else_is_no_seed(seed):
    for value in (seed, [1, seed]):
        with pytest.raises(ValueError, match=r"^seed must be a whole number in \[0, 2\^64\), got "):
            as_seeds(value)


def test_the_ends_of_the_range_are_seeds():
    assert as_seeds([0, 2**64 - 1]) == [0, 2**64 - 1]
