"""The speed of a loader, and the number of workers that is recommended for it."""

from ldm.data.speed import images_per_second, recommended_workers
from ldm.data.synthetic import SyntheticData


def test_a_loader_has_a_speed():
    assert images_per_second(SyntheticData(image_size=8, batch_size=4), 0.01) > 0


def test_the_smallest_number_of_workers_that_is_nearly_the_best_is_recommended():
    assert recommended_workers({0: 95.0, 1: 80.0, 2: 100.0}) == 0
    assert recommended_workers({0: 94.9, 1: 96.0, 2: 100.0, 8: 99.0}) == 1
    assert recommended_workers({0: 10.0, 4: 100.0}) == 4
