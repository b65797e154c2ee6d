import pytest
import torch

from ldm.utils.device import pick_device, set_threads


def test_threads_are_set_and_checked():
    before = torch.get_num_threads()
    try:
        assert set_threads(1) == torch.get_num_threads() == 1
        assert set_threads(None) >= 1
        with pytest.raises(ValueError, match="threads must be at least 1"):
            set_threads(0)
    finally:
        torch.set_num_threads(before)


def test_device_names():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match=r"device must be one of .*'cpu'.*got 'tpu'"):
        pick_device("tpu")
