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
