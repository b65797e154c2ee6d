import pytest
import torch

from ldm.training.distributed.strategy import FullySharded, distributed


def test_the_strategy_has_the_timeout_and_names_its_keys():
    assert distributed(shard=False, timeout=7.0)._timeout.total_seconds() == 7
    sharded = distributed(shard=True, copies=3, timeout=9.0)
    assert isinstance(sharded, FullySharded)
    assert sharded._timeout.total_seconds() == 9
    sharded.parallel_devices = [torch.device("cpu")] * 4
    with pytest.raises(ValueError, match=r"copies must divide the 4 ranks, got 3"):
        sharded.setup_environment()
    with pytest.raises(ValueError, match=r"above 0, got 0.0"):
        distributed(shard=True, timeout=0.0)
