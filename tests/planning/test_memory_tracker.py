"""Bytes are counted from the op that makes a storage until it is freed."""

import torch

from ldm.planning.memory_tracker import MemoryTracker, size_of


def test_a_storage_counts_while_it_is_alive():
    with MemoryTracker() as tracker:
        first = torch.zeros(100)
        second = first + 1
        del first
        third = second + 1
    assert tracker.history()[1].tolist() == [400.0, 800.0, 800.0]
    assert third.sum() == 200


def test_known_tensors_and_views_do_not_count():
    state = torch.zeros(100)
    with MemoryTracker([state]) as tracker:
        state.view(10, 10).add_(1)
        torch.zeros(1)
    assert tracker.history()[1].tolist() == [4.0]


def test_a_gradient_is_counted_apart():
    weight = torch.nn.Parameter(torch.zeros(10))
    weight.register_post_accumulate_grad_hook((tracker := MemoryTracker([weight])).count_gradient)
    with tracker:
        weight.sum().backward()
    assert tracker.history()[0].max() == 40.0


def test_flops_of_a_product_are_two_per_multiply_add():
    with MemoryTracker() as tracker, torch.no_grad():
        torch.zeros(2, 3) @ torch.zeros(3, 4)
    assert tracker.flops == {"trained": 0, "frozen": 48, "backward": 0}


def test_a_storage_is_counted_once_for_all_its_views():
    x = torch.zeros(100)
    assert size_of([x, x[:10], x.view(10, 10)]) == 400
