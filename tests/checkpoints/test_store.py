"""Checkpoints are whole or not there, older ones outlive a failure, damage of any byte is seen."""

import json
import logging
from pathlib import Path

import pytest
import torch

from ldm.checkpoints import load_model
from ldm.checkpoints.store import STATE, CheckpointStore, of_run, of_training, resumable


def state(step: int) -> dict[str, object]:
    return {"global_step": step, "x": torch.full((100,), float(step)), "text": "plain"}


def test_what_is_saved_is_read_with_weights_only(tmp_path: Path):
    path = CheckpointStore(tmp_path).save(7, state(7))
    read = torch.load(path / STATE, weights_only=True)
    assert read["global_step"] == 7
    assert torch.equal(read["x"], torch.full((100,), 7.0))
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 7
    assert manifest["files"][STATE]["bytes"] == (path / STATE).stat().st_size


def test_the_newest_and_the_milestones_stay(tmp_path: Path):
    store = CheckpointStore(tmp_path, keep=2, milestone_every=30)
    for step in range(10, 101, 10):
        store.save(step, state(step))
    assert store.steps() == [30, 60, 90, 100]
    assert store.newest() == 100


def test_any_flipped_byte_cut_or_missing_file_is_seen_and_passed_over(tmp_path: Path, caplog):
    store = CheckpointStore(tmp_path)
    store.save(1, state(1))
    file = store.save(2, state(2)) / STATE
    whole = file.read_bytes()
    for where in range(0, len(whole), 97):
        data = bytearray(whole)
        data[where] ^= 4
        file.write_bytes(data)
        assert store.damage(2) == "state.ckpt is damaged"
    file.write_bytes(whole[:-1])
    assert "bytes instead of" in (store.damage(2) or "")
    file.unlink()
    with caplog.at_level(logging.WARNING):
        assert store.newest() == 1
    assert "step_00000002 is passed over: state.ckpt is missing" in caplog.text
    file.write_bytes(whole)
    assert store.newest() == 2
    (file.parent / "manifest.json").write_text("{")
    assert store.newest() == 1


def test_a_disk_that_is_full_costs_nothing_that_was_there(tmp_path: Path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, state(1))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        store.save(2, state(2))
    assert store.steps() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_what_reads_back_otherwise_is_an_error_and_the_older_one_stays(tmp_path: Path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, state(1))
    monkeypatch.setattr(CheckpointStore, "damage", lambda self, step: "bits have flipped")
    with pytest.raises(OSError, match="bits have flipped"):
        store.save(2, state(2))
    assert store.steps() == [1, 2]


def test_leftovers_of_a_killed_process_are_removed_and_a_step_is_written_anew(tmp_path: Path):
    store = CheckpointStore(tmp_path)
    store.save(3, state(3))
    (tmp_path / ".step_00000006.tmp").mkdir()
    (tmp_path / ".step_00000006.tmp" / STATE).write_text("half")
    (store.path(3) / STATE).write_text("torn")
    store.save(3, state(3))
    assert store.damage(3) is None
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000003"]


def test_a_checkpoint_is_named_by_its_folder_or_its_file(tmp_path: Path):
    folder = CheckpointStore(tmp_path).save(5, state(5))
    assert resumable(folder) == resumable(folder / STATE) == (folder / STATE, 5)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none"):
        resumable(tmp_path / "none")
    (folder / STATE).write_text("torn")
    with pytest.raises(ValueError, match=r"bytes instead of"):
        resumable(folder)


def test_a_run_directory_stands_for_its_newest_checkpoint(tmp_path: Path):
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(3, state(3))
    newest = store.save(5, state(5)) / STATE
    assert of_training(tmp_path) == of_training(tmp_path / "checkpoints") == newest
    assert resumable(tmp_path) == resumable(tmp_path / "checkpoints") == (newest, 5)
    newest.write_text("torn")
    assert resumable(tmp_path)[1] == 3


@pytest.mark.parametrize("name", ["model.safetensors", "autoencoder.safetensors"])
def test_a_run_directory_stands_for_its_finished_model(tmp_path: Path, name: str):
    step = CheckpointStore(tmp_path / "checkpoints").save(5, state(5)) / STATE
    (tmp_path / name).write_text("weights")
    assert of_run(tmp_path) == of_training(tmp_path) == tmp_path / name
    assert resumable(tmp_path) == (step, 5)
    assert of_run(tmp_path / name) == tmp_path / name


def test_a_folder_without_a_whole_checkpoint_is_no_model(tmp_path: Path):
    (CheckpointStore(tmp_path).save(5, state(5)) / STATE).unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole"):
        load_model(tmp_path)


@pytest.mark.parametrize(("name", "keep", "every"), [("keep", 0, None), ("milestone_every", 1, 0)])
def test_impossible_numbers_are_refused(tmp_path: Path, name: str, keep: int, every: int | None):
    with pytest.raises(ValueError, match=name):
        CheckpointStore(tmp_path, keep, every)
