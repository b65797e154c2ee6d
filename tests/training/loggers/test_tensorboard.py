"""TensorBoard shows one curve of a run that was killed: each step once, none missing."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ldm.training.loggers.csv import read_rows
from ldm.training.loggers.tensorboard import TensorBoardLog

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def curves(folder):
    """Name -> [(step, value)] as TensorBoard shows them."""
    shown = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    shown.Reload()
    tags = shown.Tags()
    return {tag: [(e.step, e.value) for e in shown.Scalars(tag)] for tag in tags["scalars"]}, {
        tag: [e.step for e in shown.Images(tag)] for tag in tags["images"]
    }


def test_what_was_logged_past_the_step_gone_on_from_is_taken_back(tmp_path):
    first = TensorBoardLog(str(tmp_path))
    for step in (1, 2, 3, 4):
        first.log_metrics({"a": float(step)}, step)
    first.finalize("success")
    second = TensorBoardLog(str(tmp_path))
    for step in (3, 4, 5):
        second.log_metrics({"a": 10.0 * step}, step)
    second.finalize("success")
    (curve,) = curves(tmp_path / "tensorboard")[0].values()
    assert curve == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0)]


def test_a_killed_and_resumed_run_has_every_step_once(kills, tmp_path):
    runner, run = kills.Runner(tmp_path), tmp_path / "run"
    argv = [*kills.TINY, "logger=tensorboard", "first_stage.max_steps=2", f"hydra.run.dir={run}"]
    assert runner.finish(argv, kills.Blow(where="batch", amount=17))
    assert not runner.finish(argv)
    numbers, pictures = curves(run / "tensorboard")
    rows = read_rows(run / "metrics.csv")
    for name in ("train/loss", "val/loss", "lr", "images_per_second"):
        logged = [(step, row[name]) for step, row in rows.items() if name in row]
        assert [step for step, _ in numbers[name]] == [step for step, _ in logged]
        assert [value for _, value in numbers[name]] == pytest.approx([value for _, value in logged])
    assert pictures == {"samples": [8, 16, 24]}
    shown = EventAccumulator(str(run / "tensorboard"))
    shown.Reload()
    text = shown.Tensors("config/text_summary")[-1].tensor_proto.string_val[0].decode()
    config = json.loads(text.strip("`\n"))
    assert config["trainer"]["max_steps"] == 24
    assert "git_revision" in config
