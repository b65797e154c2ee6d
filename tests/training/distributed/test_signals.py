"""Signals under a real Trainer, on a module with one weight."""

import signal
import threading

import pytest
import torch

from ldm.training.callbacks.checkpoints import Checkpoints
from ldm.training.distributed.signals import StopOnSignal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def test_without_an_interrupt_the_signals_come_back(small, tmp_path):
    before, callback = [signal.getsignal(s) for s in SIGNALS], StopOnSignal()
    small.fit(tmp_path, small.Module(), callback)
    assert callback.stopped_by == 0
    assert [signal.getsignal(s) for s in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_saves_the_finished_step_and_stops(small, tmp_path, number):
    """Also what the module's own hook, where its EMA may live, does at the end of the step."""
    before, callback = [signal.getsignal(s) for s in SIGNALS], StopOnSignal()
    module = small.Module(actions={7: lambda: signal.raise_signal(number)})
    saver = Checkpoints(folder=str(tmp_path / "checkpoints"), every_n_steps=100)
    trainer = small.fit(tmp_path, module, callback, saver, steps=50, accumulate=3)
    assert callback.stopped_by == number
    assert trainer.global_step == 3  # batch 7 belongs to the third step
    saved = torch.load(tmp_path / "checkpoints" / "step_00000003" / "state.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert saved["state_dict"]["hooks"].item() == 9
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_under_nohup_the_end_of_the_terminal_is_ignored(small, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        callback = StopOnSignal()
        module = small.Module(actions={1: lambda: signal.raise_signal(signal.SIGHUP)})
        assert small.fit(tmp_path, module, callback, steps=4).global_step == 4
        assert callback.stopped_by == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("every", "says"),
    [
        (2, "steps 3 to 3, made since the last checkpoint, are lost"),
        (3, "no finished step is lost, the run is saved up to step 3"),
    ],
)
def test_a_second_interrupt_says_what_is_lost(small, tmp_path, caplog, every, says):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    saver = Checkpoints(folder=str(tmp_path / "checkpoints"), every_n_steps=every)
    caplog.set_level("INFO")
    with pytest.raises(SystemExit):
        small.fit(tmp_path, small.Module(actions={3: twice}), StopOnSignal(), saver, steps=50)
    assert f"ctrl-C again ends at once: {says}" in caplog.text
    assert f"SIGINT again: ending at once; {says}" in caplog.text
    assert saver.store.newest() == (3 if every == 3 else 2)


def test_a_second_interrupt_stops_at_once(small, tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before, callback = [signal.getsignal(s) for s in SIGNALS], StopOnSignal()
    with pytest.raises(SystemExit):  # what Lightning makes of KeyboardInterrupt
        small.fit(tmp_path, small.Module(actions={1: twice}), callback, steps=50)
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_signals_of_a_cluster_may_come_again_and_again(small, tmp_path):
    """A warning, then the end of the time, then the requeueing: none falls into the step or the saving."""

    def thrice():
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)

    class Late(Checkpoints):
        def on_train_end(self, trainer, pl_module):
            signal.raise_signal(signal.SIGTERM)
            super().on_train_end(trainer, pl_module)

    callback = StopOnSignal()
    saver = Late(folder=str(tmp_path / "checkpoints"), every_n_steps=100)
    trainer = small.fit(tmp_path, small.Module(actions={3: thrice}), callback, saver, steps=50)
    assert callback.stopped_by == signal.SIGTERM
    assert trainer.global_step == 4
    assert (tmp_path / "checkpoints" / "step_00000004").is_dir()


def test_signals_come_back_after_an_error(small, tmp_path):
    before = [signal.getsignal(s) for s in SIGNALS]
    with pytest.raises(ZeroDivisionError):
        small.fit(tmp_path, small.Module(actions={1: lambda: 1 / 0}), StopOnSignal())
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_a_thread_trains_without_the_signals(small, tmp_path):
    errors = []

    def train():
        try:
            small.fit(tmp_path, small.Module(), StopOnSignal())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert errors == []
