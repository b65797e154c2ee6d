import pytest

from ldm.checkpoints.store import CheckpointStore
from ldm.training.resume import resumed_run, starting_point
from ldm.utils.errors import UserError


def stage(folder, *steps):
    """A folder with checkpoints of some steps."""
    store = CheckpointStore(folder / "checkpoints", keep=10)
    for step in steps:
        store.save(step, {"global_step": step})
    return folder


def test_a_new_folder_starts_at_zero(tmp_path):
    assert starting_point("auto", tmp_path) == (None, 0)
    assert starting_point("never", tmp_path) == (None, 0)


def test_a_folder_goes_on_at_its_newest_checkpoint(tmp_path):
    path, step = starting_point("auto", stage(tmp_path, 3, 6))
    assert step == 6
    assert path.parent == tmp_path / "checkpoints" / "step_00000006"


def test_never_refuses_a_folder_with_checkpoints(tmp_path):
    with pytest.raises(UserError, match="has checkpoints and resume=never"):
        starting_point("never", stage(tmp_path, 3))


def test_a_named_checkpoint_starts_another_run(tmp_path):
    old = stage(tmp_path / "old", 3, 6)
    named = str(old / "checkpoints" / "step_00000003")
    assert resumed_run(named) == old
    assert starting_point(named, tmp_path / "new")[1] == 3
    assert starting_point(named, tmp_path / "new" / "autoencoder") == (None, 0)  # it is of the other stage


def test_a_named_checkpoint_of_the_first_stage_starts_the_first_stage(tmp_path):
    old = stage(tmp_path / "old" / "autoencoder", 4)
    named = str(old / "checkpoints" / "step_00000004")
    assert starting_point(named, tmp_path / "new" / "autoencoder")[1] == 4
    assert starting_point(named, tmp_path / "new") == (None, 0)


def test_later_checkpoints_are_not_overwritten(tmp_path):
    old = stage(tmp_path, 3, 6)
    with pytest.raises(UserError, match="goes on to step 6"):
        starting_point(str(old / "checkpoints" / "step_00000003"), old)
