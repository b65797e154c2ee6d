"""A rank that dies is named and takes the others with it in seconds; one that leaves does not."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.dist
RANK = """
import logging, sys, time
from ldm.training.distributed.heartbeats import Heartbeats

logging.basicConfig(format="%(message)s")
rank, world, silence = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
folder = sys.argv[4]

def broadcast(x):  # through a file
    import json, os, pathlib
    path = pathlib.Path(folder, "place")
    if rank == 0:
        path.with_suffix(".new").write_text(json.dumps(x))
        path.with_suffix(".new").rename(path)
    while not path.exists():
        time.sleep(0.01)
    return json.loads(path.read_text())

peers = Heartbeats(rank, world, "127.0.0.1", broadcast, silence)
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "leave":
        peers.leave()
        break
    if line.strip() == "fail":
        peers.fail()
        sys.exit(1)
"""


@pytest.fixture
def ranks(tmp_path):
    processes = []

    def start(world, silence=30.0):
        for rank in range(world):
            argv = [sys.executable, "-c", RANK, str(rank), str(world), str(silence), str(tmp_path)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            processes.append(subprocess.Popen(argv, text=True, **pipes))
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        return processes

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def last_words(process):
    process.wait(timeout=20)
    return process.stderr.read()


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_is_named_by_all_others_within_seconds(ranks, victim):
    processes = ranks(3)
    start = time.monotonic()
    processes[victim].send_signal(signal.SIGKILL)
    for rank, process in enumerate(processes):
        said = last_words(process)
        if rank != victim:
            assert process.returncode == 1
            name = rf"rank {victim} \({re.escape(socket.gethostname())}, process {processes[victim].pid}\)"
            assert re.search(rf"{name} is gone: rank {rank} .* ends, too", said)
    assert time.monotonic() - start < 10  # by the connection, not by the silence of 30 s


def test_a_rank_that_fails_is_named(ranks):
    processes = ranks(2)
    processes[1].stdin.write("fail\n")
    processes[1].stdin.flush()
    assert re.match(r"rank 1 \(.*\) has failed: rank 0 .* ends, too", last_words(processes[0]))
    assert processes[0].returncode == 1


def test_a_rank_that_stands_still_is_named(ranks):
    processes = ranks(2, silence=4.0)  # seconds enough for a loaded machine to start both
    processes[1].send_signal(signal.SIGSTOP)
    said = last_words(processes[0])
    os.kill(processes[1].pid, signal.SIGCONT)
    assert re.match(r"rank 1 \(.*\) has said nothing for 4 s: rank 0 .* ends, too", said)


def test_ranks_may_leave_one_after_the_other(ranks):
    processes = ranks(3)
    for process in processes:
        process.stdin.write("leave\n")
        process.stdin.flush()
        assert process.wait(timeout=20) == 0
        time.sleep(0.1)
