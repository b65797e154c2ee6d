import json
import signal
import subprocess
import time

import pytest

from ldm.training.ownership import owned
from ldm.utils.errors import UserError
from ldm.utils.lock import Lock

HOLDER = """
import sys, time
from pathlib import Path
from ldm.training.ownership import owned
with owned(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_directory_has_one_run_at_a_time(tmp_path):
    with owned(tmp_path / "r"):
        says = r"hydra.run.dir: .*r is in use by another run \(process \d+ on"
        with pytest.raises(UserError, match=says), owned(tmp_path / "r"):
            pass
        assert (tmp_path / "r" / ".lock").exists()
    with owned(tmp_path / "r"):
        pass
    assert not list((tmp_path / "r").iterdir())


def test_an_error_gives_the_directory_back(tmp_path):
    with pytest.raises(KeyError), owned(tmp_path):
        raise KeyError
    assert not list(tmp_path.iterdir())


@pytest.mark.dist
def test_a_killed_run_leaves_the_directory_to_the_next(tmp_path, warm_python):
    with subprocess.Popen([warm_python, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"in\n"
        with pytest.raises(UserError, match="in use"), owned(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        start = time.monotonic()
        while Lock(tmp_path / ".lock", 100.0)._sign is None and time.monotonic() - start < 5:
            try:
                with owned(tmp_path):
                    break
            except UserError:  # the process behind the client is about to end
                time.sleep(0.05)
        assert not (tmp_path / ".lock").exists()


def test_a_run_of_another_host_is_known_by_its_signs_of_life(tmp_path):
    def elsewhere():
        Lock(tmp_path / ".lock", 1.0).taken()
        who = json.loads((tmp_path / ".lock").read_text()) | {"host": "elsewhere"}
        (tmp_path / ".lock").write_text(json.dumps(who))

    elsewhere()
    start = time.monotonic()
    with owned(tmp_path, lease=0.5):  # it has ended
        assert time.monotonic() - start >= 0.5
        first = (tmp_path / ".lock").stat().st_mtime_ns
        time.sleep(0.3)
        assert (tmp_path / ".lock").stat().st_mtime_ns > first  # this one shows that it has not


def test_other_ranks_share_the_directory(tmp_path, monkeypatch):
    with owned(tmp_path):
        monkeypatch.setattr("ldm.training.ownership.is_main", lambda: False)
        with owned(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()


def test_a_run_whose_directory_was_removed_leaves_nothing_behind(tmp_path, caplog):
    with owned(tmp_path / "r", lease=0.3):
        (tmp_path / "r" / ".lock").unlink()
        (tmp_path / "r").rmdir()
        time.sleep(0.2)
    assert "is no longer the lock of this run" in caplog.text
    assert not (tmp_path / "r").exists()
