import numpy as np
import pytest
import torch

from ldm.generation import Draws


def test_draws_of_an_image_are_those_of_its_seed():
    one = Draws(5, 3, torch.device("cpu")).normal("initial", 0, range(3), (2, 2))
    part = Draws(5, 3, torch.device("cpu")).normal("initial", 0, range(2, 3), (2, 2))
    assert torch.equal(one[2:], part)
    many = Draws([7, 5], 2, torch.device("cpu")).normal("initial", 0, range(2), (2, 2))
    assert torch.equal(many[1], one[0])
    with pytest.raises(ValueError, match="seed must be one number or 2"):
        Draws([1, 2, 3], 2, torch.device("cpu"))


def test_numbers_make_the_draws_of_some_images_of_a_larger_call():
    cpu = torch.device("cpu")
    whole = Draws(5, 4, cpu).normal("x_T", 0, range(4), (3,))
    some = Draws(5, 2, cpu, numbers=[3, 1]).normal("x_T", 0, range(2), (3,))
    assert torch.equal(some, whole[[3, 1]])
    one_each = Draws([5, 5], 2, cpu, numbers=[3, 1]).normal("x_T", 0, range(2), (3,))
    assert torch.equal(one_each, some)
    with pytest.raises(ValueError, match="numbers must be 2, one for each image, got 1"):
        Draws(5, 2, cpu, numbers=[3])


@pytest.mark.parametrize("seed", [np.int64(5), torch.tensor(5), np.uint64(5)])
def test_the_type_of_a_seed_does_not_matter(seed):
    cpu = torch.device("cpu")
    expected = Draws(5, 2, cpu).normal("x_T", 0, range(2), (3,))
    assert torch.equal(Draws(seed, 2, cpu).normal("x_T", 0, range(2), (3,)), expected)
    assert torch.equal(Draws(np.array([5, 6]), 2, cpu).normal("x_T", 0, range(1), (3,)), expected[:1])


@pytest.mark.parametrize("seed", [-1, 2**64, [0, -1]])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\^64\), got "):
        Draws(seed, 2, torch.device("cpu"))


@pytest.mark.parametrize("numbers", [5, [-1, 0], [0.5, 1], ["a", "b"], [2**63, 0]])
def test_numbers_of_another_kind_are_refused(numbers):
    with pytest.raises(ValueError, match=r"numbers must be whole numbers in \[0, 2\^63\), got "):
        Draws(0, 2, torch.device("cpu"), numbers)


def test_seeds_differ_in_every_bit():
    cpu, seeds = torch.device("cpu"), [0, 1, 2**32, 2**63, 2**64 - 1]
    drawn = Draws(seeds, len(seeds), cpu).normal("x_T", 0, range(len(seeds)), (4,))
    assert len({tuple(row.tolist()) for row in drawn}) == len(seeds)
