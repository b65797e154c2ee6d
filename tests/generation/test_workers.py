import torch

from ldm.generation.workers import OneProcess, Workers


def test_one_process_does_each_part_once_and_all_count():
    assert list(OneProcess().share(3)) == [(0, True), (1, True), (2, True)]
    assert list(OneProcess().share(0)) == []


def test_the_sum_of_one_process_is_its_tensor():
    images = torch.ones(1)
    assert OneProcess().summed(images) is images


def test_one_process_is_workers_and_half_of_one_is_not():
    class Summing:
        def summed(self, images):
            return images

    assert isinstance(OneProcess(), Workers)
    assert not isinstance(Summing(), Workers)
