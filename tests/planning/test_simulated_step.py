"""The peak is found over all moments of a step, for any batch."""

import numpy as np

from ldm.planning.simulated_step import SimulatedStep


def step(**changes):
    known = {
        "parameters": 1,
        "state": {},
        "gradients": np.array([0.0, 60.0, 100.0]),
        "fixed": np.array([10.0, 10.0, 0.0]),
        "per_image": np.array([30.0, 10.0, 0.0]),
        "blocks": (),
        "flops": {"trained": 5, "frozen": 1, "backward": 10},
    }
    return SimulatedStep(**known | changes)


def test_the_peak_moves_from_gradients_to_activations_with_the_batch():
    assert step().peak(1) == (100, 0)
    assert step().peak(4) == (0, 130)


def test_a_rank_that_keeps_a_part_of_each_gradient_peaks_elsewhere():
    assert step().peak(1, share=0.25) == (0, 40)


def test_flops_of_training_are_three_forward_passes_or_two_with_frozen_weights():
    assert step().model_flops == 16
    assert step(passes=2).model_flops == 11
