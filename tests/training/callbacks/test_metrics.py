"""Losses, gradients and skipped steps under a real Trainer, on a module with one weight."""

import json

import pytest
import torch

from ldm.training.callbacks.checkpoints import Checkpoints
from ldm.training.callbacks.metrics import Metrics, TrainingDiverged
from ldm.training.callbacks.sample_grid import SampleGrid

pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
NAN, INF = float("nan"), float("inf")


def test_loss_and_bins_are_means_over_the_window(small, tmp_path):
    trainer = small.fit(tmp_path, small.Module([[1.0, 3.0], [5.0, 7.0]]), Metrics(bins=2), steps=3)
    (first, row), (last, _) = small.rows(trainer)
    assert (first, last) == (2, 3)  # the window and the end
    assert row == {"train/loss": 4.0, "loss_t/00": 3.0, "loss_t/01": 5.0, "grad_norm": 4.0, "lr": 0.1}


def test_bins_without_a_sample_are_left_out(small, tmp_path):
    trainer = small.fit(tmp_path, small.Module(), Metrics(bins=10), steps=2)
    assert [name for name in small.rows(trainer)[0][1] if name.startswith("loss_t/")] == [
        "loss_t/00",
        "loss_t/09",
    ]


def test_accumulated_batches_are_one_step(small, tmp_path):
    losses = [[float(i)] * 2 for i in range(12)]
    captions = ["a"]
    trainer = small.fit(
        tmp_path, small.Module(losses), Metrics(), SampleGrid(captions, 2), steps=4, accumulate=3, every=2
    )
    assert [(step, row["train/loss"]) for step, row in small.rows(trainer)] == [(2, 2.5), (4, 8.5)]
    drawn = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert drawn == ["step_00000002.png", "step_00000004.png"]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_step_is_skipped_counted_and_written_down(small, tmp_path, bad):
    module = small.Module([[1.0, 1.0], [1.0, bad], [3.0, 3.0]])
    weights = []
    module.on_train_batch_end = lambda *args: weights.append(module.weight.item())
    trainer = small.fit(tmp_path, module, Metrics(), steps=4, every=4)
    assert weights == pytest.approx([0.9, 0.9, 0.6, 0.5])
    (_, row) = small.rows(trainer)[0]
    assert row["train/loss"] == pytest.approx((1.0 + 3.0 + 1.0) / 3)
    assert row["skipped_steps"] == 1.0
    lines = [json.loads(line) for line in (tmp_path / "bad_steps.jsonl").read_text().splitlines()]
    assert lines == [{"step": 2, "rank": 0, "loss": True, "keys": [3]}]


def test_a_bad_batch_spoils_its_accumulated_step_only(small, tmp_path):
    module = small.Module([[1.0, 1.0], [NAN, 1.0], [1.0, 1.0], [5.0, 5.0]])
    trainer = small.fit(tmp_path, module, Metrics(), steps=2, accumulate=2, every=1)
    assert module.weight.item() == pytest.approx(0.7)
    assert [row.get("train/loss") for _, row in small.rows(trainer)] == [None, 3.0]


def test_a_gradient_that_is_not_finite_is_skipped_with_all_keys_of_the_step(small, tmp_path):
    module = small.Module()
    module.weight.register_hook(lambda grad: grad * (NAN if module.seen == 2 else 1.0))
    small.fit(tmp_path, module, Metrics(), steps=3)
    (line,) = (tmp_path / "bad_steps.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 2, "rank": 0, "loss": False, "keys": [2, 3]}
    assert module.weight.item() == pytest.approx(0.8)


def test_optimizer_states_stay_in_a_skipped_step(small, tmp_path):
    module = small.Module([[1.0, 1.0], [NAN, 1.0]])
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module.configure_optimizers = lambda: optimizer
    small.fit(tmp_path, module, Metrics(), steps=2)
    (state,) = optimizer.state.values()
    assert state["step"].item() == 1.0
    assert state["exp_avg"].isfinite().all()


def test_past_the_limit_the_run_stops_with_step_and_keys(small, tmp_path):
    module = small.Module([[1.0, 1.0]] * 3 + [[NAN, 1.0]] * 9)
    saver = Checkpoints(folder=str(tmp_path / "checkpoints"), every_n_steps=1)
    with pytest.raises(TrainingDiverged, match=r"step 6, keys \[10\]; 3 of the last 1000.*optimizer\.lr"):
        small.fit(tmp_path, module, Metrics(max_bad_steps=2), saver, steps=20)
    assert saver.store.newest() == 5
    assert len((tmp_path / "bad_steps.jsonl").read_text().splitlines()) == 3


def test_windows_and_counts_go_on_after_a_stop(small, tmp_path):
    losses = [[float(i), 2.0 * i] for i in range(8)]
    losses[1] = [NAN, 0.0]
    expected = small.rows(small.fit(tmp_path / "a", small.Module(losses), Metrics(), steps=8, every=4))
    saver = Checkpoints(folder=str(tmp_path / "b" / "checkpoints"), every_n_steps=3)
    killed = small.Module(losses, actions={4: lambda: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        small.fit(tmp_path / "b", killed, Metrics(), saver, steps=8, every=4)
    again = small.Module(losses)
    again.seen = 3
    path = saver.store.path(3) / "state.ckpt"
    saver = Checkpoints(folder=str(tmp_path / "b" / "checkpoints"), every_n_steps=3)
    found = small.fit(tmp_path / "b", again, Metrics(), saver, steps=8, every=4, path=path)
    assert small.rows(found) == expected
    assert expected[-1][1]["skipped_steps"] == 1.0


def test_bad_steps_after_the_checkpoint_are_forgotten(small, tmp_path):
    path = tmp_path / "bad_steps.jsonl"
    path.write_text('{"step": 0}\n{"step": 7}\n')
    small.fit(tmp_path, small.Module(), Metrics())
    assert path.read_text() == '{"step": 0}\n'


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match=r"got -1"):
        Metrics(max_bad_steps=-1)
