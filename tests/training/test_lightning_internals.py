"""Lightning still has what is used of it beyond its public interface."""

import signal

import pytest
import torch

from ldm.training.distributed.strategy import distributed
from ldm.training.lightning_internals import keep_signal_handlers, restart_loops, set_mesh, state_of


def test_handlers_of_signals_stay_while_lightning_trains(small, tmp_path):
    def handler(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, handler)
    seen = []
    module = small.Module(actions={0: lambda: seen.append(signal.getsignal(signal.SIGTERM))})
    module.on_fit_start = lambda: keep_signal_handlers(module.trainer)
    try:
        small.fit(tmp_path, module, steps=1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [handler]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
def test_a_state_restarts_at_a_step_of_another_accumulation(small, tmp_path):
    trainer = small.fit(tmp_path, small.Module(), steps=3, accumulate=2)
    state = state_of(trainer)
    assert state["global_step"] == 3
    assert state["state_dict"].keys() == {"weight", "hooks"}
    restart_loops(state, accumulate=4)
    torch.save(state, tmp_path / "state.ckpt")
    module = small.Module()
    resumed = small.fit(tmp_path, module, steps=5, accumulate=4, path=tmp_path / "state.ckpt")
    assert resumed.global_step == 5
    assert module.seen == 8


def test_a_mesh_is_set_before_the_ranks_meet():
    strategy = distributed(shard=True)
    set_mesh(strategy, 2, 3)
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (2, 3)
