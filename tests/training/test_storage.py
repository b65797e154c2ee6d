import errno
import os

import pytest

from ldm.checkpoints.store import CheckpointStore, HashedFile
from ldm.training.storage import explained, reason_of
from ldm.utils.errors import Failure

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line_that_names_the_checkpoint_that_is_whole(tmp_path, monkeypatch):
    """The disk fills up while a checkpoint is written; torch hides the reason."""
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(20, {"global_step": 20})

    def write(self, data):
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(HashedFile, "write", write)
        with pytest.raises(Failure) as caught, explained(tmp_path):
            store.save(30, {"global_step": 30})
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/checkpoints/")
    assert "No space left on device; the checkpoint of step 20 is whole: the same command goes on" in line
    assert store.steps() == [20]
    store.save(30, {"global_step": 30})  # after room was made
    assert store.newest() == 30
    assert {path.name for path in store.folder.iterdir()} == {"step_00000020", "step_00000030"}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FULL, "r: No space left on device"),
        (OSError(errno.EDQUOT, "quota", "/cache/x"), "/cache/x: Disk quota exceeded"),
        (OSError(errno.EROFS, "ro", "r/metrics.csv"), "r/metrics.csv: Read-only file system"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos"), "r: No space left"),
        (OSError("cannot write r/model.safetensors: I/O error: full (os error 28)"), "r: No space left"),
        (OSError(errno.EIO, "io", "r/metrics.csv"), "r/metrics.csv: Input/output error"),
    ],
)
def test_errors_of_the_disk_are_recognised(error, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r").mkdir()
    assert says in reason_of(error, tmp_path / "r")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("os"),
        RuntimeError("shapes"),
        FileNotFoundError(errno.ENOENT, "no", "/data/a.png"),
        OSError(errno.EACCES, "no", "/data/a.png"),
    ],
)
def test_other_errors_stay_as_they_are(error, tmp_path):
    with pytest.raises(type(error)) as caught, explained(tmp_path):
        raise error
    assert caught.value is error


def test_a_removed_directory_is_named(tmp_path):
    says = "the directory of the run was removed; no checkpoint"
    with pytest.raises(Failure, match=says), explained(tmp_path / "r"):
        (tmp_path / "r" / "metrics.csv").write_text("")
