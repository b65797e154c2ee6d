"""Checkpoints of a real Trainer, on a module with one weight; their thread alone."""

import threading
import time

import pytest
import torch

from ldm.checkpoints.store import state_of
from ldm.diffusion import random
from ldm.training.callbacks.checkpoints import Background, Checkpoints, copied
from ldm.utils.errors import UserError


def fail():
    raise OSError(28, "No space left on device")


def test_a_step_is_saved_at_the_interval_and_at_the_end_and_the_oldest_go(small, tmp_path):
    saver = Checkpoints(folder=str(tmp_path / "c"), every_n_steps=2, keep=2, milestone_every=4)
    trainer = small.fit(tmp_path, small.Module(), saver, steps=7)
    found = sorted(p.name for p in (tmp_path / "c").glob("step_*"))
    assert found == [f"step_{step:08d}" for step in (4, 6, 7)]  # 4 is a milestone
    calls = [
        call for call in trainer.loggers[0].log_metrics.call_args_list if "checkpoint_stall" in call.args[0]
    ]
    assert [call.kwargs["step"] for call in calls] == [2, 4, 6, 7]
    assert all(call.args[0]["checkpoint_stall"] > 0 for call in calls)


def test_the_last_step_is_saved_once(small, tmp_path):
    saver = Checkpoints(folder=str(tmp_path / "c"), every_n_steps=2, keep=1)
    trainer = small.fit(tmp_path, small.Module(), saver, steps=4)
    assert [p.name for p in (tmp_path / "c").glob("step_*")] == ["step_00000004"]
    calls = [
        call for call in trainer.loggers[0].log_metrics.call_args_list if "checkpoint_stall" in call.args[0]
    ]
    assert [call.kwargs["step"] for call in calls] == [2, 4]


def test_a_checkpoint_that_cannot_be_written_ends_the_training(small, tmp_path, monkeypatch):
    saver = Checkpoints(folder=str(tmp_path / "c"), every_n_steps=1)
    monkeypatch.setattr(saver.store, "save", lambda step, state: fail())
    with pytest.raises(OSError, match="No space left"):
        small.fit(tmp_path, small.Module(), saver, steps=4)


def test_an_interval_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        Checkpoints(folder=str(tmp_path), every_n_steps=0)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
def test_a_checkpoint_of_other_random_draws_is_refused(small, tmp_path, monkeypatch):
    def fit(name, **options):
        saver = Checkpoints(folder=str(tmp_path / name), every_n_steps=2)
        small.fit(tmp_path, small.Module(), saver, **options)
        return saver.store

    state = state_of(fit("c", steps=2).path(2))
    fit("d", steps=4, path=state)
    monkeypatch.setattr(random, "VERSION", 3)
    with pytest.raises(UserError, match=r"of version 2, .* of version 3: .* a new run from its weights"):
        fit("e", steps=4, path=state)


def test_the_jobs_of_the_thread_run_one_after_the_other():
    background, done = Background(), []
    go = threading.Event()

    def first():
        go.wait(10)
        done.append(1)

    background.start(first)
    assert done == []  # the training goes on meanwhile
    go.set()
    background.start(lambda: (time.sleep(0.05), done.append(2)))
    assert 1 in done
    background.close()
    assert done == [1, 2]


def test_the_error_of_a_job_is_raised_once_where_the_next_begins():
    background = Background()
    background.start(fail)
    with pytest.raises(OSError, match="No space left"):
        background.start(lambda: None)
    background.close()


def test_a_copied_state_keeps_its_values_while_the_training_changes_them():
    weight = torch.nn.Parameter(torch.ones(2))
    state = {"net": {"weight": weight}, "step": 3, "rates": [torch.tensor(0.5)]}
    kept = copied(state)
    with torch.no_grad():
        weight += 1
    assert torch.equal(kept["net"]["weight"], torch.ones(2))
    assert not kept["net"]["weight"].requires_grad
    assert (kept["step"], kept["rates"][0].item()) == (3, 0.5)
