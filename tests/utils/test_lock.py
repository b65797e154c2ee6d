import json
import os
import socket
import subprocess
import sys
import time

import pytest

from ldm.utils.lock import Lock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.lock"


def lock_of(path, **changes):
    """A lock of this process, or of one that differs."""
    Lock(path, 1.0).taken()
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def dead_pid():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_one_of_two_takes_it_until_it_is_given_back(path):
    first, second = Lock(path, 1.0), Lock(path, 1.0)
    assert first.taken()
    assert first.is_mine()
    assert not second.taken()
    assert second.alive
    assert second.holder() == f"process {os.getpid()} on {socket.gethostname()}"
    first.release()
    assert second.taken()


@pytest.mark.parametrize(
    "changes",
    [{"pid": None}, {"start": "1"}],
    ids=["the process has ended", "another process has its number"],
)
def test_the_lock_of_an_ended_process_of_this_host_is_taken_over_at_once(changes, path):
    lock_of(path, **{name: dead_pid() if value is None else value for name, value in changes.items()})
    lock = Lock(path, 100.0)
    assert not lock.is_mine()
    assert not lock.taken()
    assert not lock.alive
    assert lock.taken()
    assert [p.name for p in path.parent.iterdir()] == ["a.lock"]


def test_a_process_that_has_ended_but_was_not_waited_for_holds_nothing(path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    lock_of(path, pid=process.pid)
    lock = Lock(path, 100.0)
    assert [lock.taken(), lock.taken()] == [False, True]
    process.wait()


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"space": "another container"}])
def test_a_lock_from_elsewhere_is_held_while_it_gives_signs_of_life(changes, path):
    lock_of(path, **changes, pid=dead_pid())
    lock = Lock(path, 0.3)
    assert not lock.taken()
    assert not lock.alive  # not known yet
    start = time.monotonic()
    while time.monotonic() - start < 0.6:
        Lock(path, 1.0).touch()
        assert not lock.taken()
        assert lock.alive
        time.sleep(0.02)
    time.sleep(0.4)
    assert [lock.taken(), lock.taken()] == [False, True]


def test_a_lock_that_was_replaced_meanwhile_is_left_alone(path):
    lock_of(path, pid=1)
    Lock(path, 1.0)._put_away(b"what was there before")
    assert json.loads(path.read_text())["pid"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["a.lock"]


def test_a_lock_that_is_being_written_is_held(path):
    path.touch()
    lock = Lock(path, 100.0)
    assert not lock.taken()
    assert not lock.is_mine()
    assert lock.holder() == "another process"
    path.write_text("{")
    assert not lock.taken()
    assert lock.alive
