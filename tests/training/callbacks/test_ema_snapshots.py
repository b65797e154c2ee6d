"""The callback alone; whole runs with it are in tests/cli/test_ema.py and test_kills.py."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ldm.training.callbacks.ema_snapshots import EMASnapshots
from ldm.training.power_ema import PowerFunction, power_functions
from ldm.utils.ema import Horizon, MovingAverage, twin_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "fp32"}, r"dtype must be fp16 or bf16, got fp32"),
        (
            {"every_n_images": 0},
            r"every_n_images must be at least 1, got 0",
        ),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, changes, says):
    values = {"folder": str(tmp_path), "every_n_images": 10, "budget_gigabytes": 1.0}
    with pytest.raises(ValueError, match=says):
        EMASnapshots(**(values | changes))


def test_a_width_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match=r"each sigma_rel once, got \[0\.1, 0\.1\]"):
        power_functions([0.1, 0.1])


def test_a_stage_without_averages_writes_nothing(small, tmp_path):
    callback = EMASnapshots(str(tmp_path / "ema"), every_n_images=1, budget_gigabytes=1.0)
    small.fit(tmp_path, small.Module(), callback)
    assert not (tmp_path / "ema").exists()


def followed(folder, shard):
    """Twins of a small net after ten steps, gathered."""
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    for p in net.parameters():
        nn.init.constant_(p, 0.5)
    twins = [twin_of(net), twin_of(net)]
    for module in (net, *twins) if shard else ():
        fully_shard(module)
    decays = [Horizon(images=20), PowerFunction(sigma_rel=0.1)]
    averages = [MovingAverage(twin, net, decay) for twin, decay in zip(twins, decays, strict=True)]
    for i in range(10):
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.9)
        for average in averages:
            average.update(4 * i, 4 * i + 4)
    callback = EMASnapshots(str(folder), every_n_images=1, budget_gigabytes=1.0)
    return [callback._gathered(twin, keep=True) for twin in twins]


def one_of_two(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    init_device_mesh("cpu", (2,))
    torch.save(followed(folder, shard=True), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.dist
def test_averages_of_sharded_nets_are_those_of_whole_ones(kills, tmp_path):
    """FSDP2 on two ranks: both gather the same numbers, bit for bit those of one process."""
    warm = multiprocessing.get_context("forkserver")
    warm.set_forkserver_preload(kills.PRELOADED)
    ranks = [warm.Process(target=one_of_two, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]
    whole = followed(tmp_path, shard=False)
    for rank in range(2):
        gathered = torch.load(Path(tmp_path) / f"{rank}.pt", weights_only=True)
        for ours, theirs in zip(gathered, whole, strict=True):
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
            assert all(x.dtype == torch.float16 for x in ours.values() if x.is_floating_point())
