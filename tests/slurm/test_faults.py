"""What a cluster does to a run leaves no trace in it: the losses are those of a run left alone."""

import os
import subprocess
import time

import pytest
from tests.slurm.conftest import STEPS, Job, ask, wait

pytestmark = pytest.mark.slurm
RTOL = 2e-5  # the order of sums in float32


def same(a: Job, b: Job, rtol: float = 0.0) -> None:
    """The same steps, losses and norms."""
    ours, theirs = a.losses(), b.losses()
    for name in ours:
        assert [step for step, _ in ours[name]] == [step for step, _ in theirs[name]]
        assert [x for _, x in ours[name]] == pytest.approx([x for _, x in theirs[name]], rel=rtol, abs=0)
    assert len(ours["train/loss"]) == STEPS
    assert (a.run / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def jobs(submit):
    """A run left alone and others that wait for what is to happen to them: started at once, to save time."""
    return {
        "alone": submit([], ["trainer=ddp"]),
        "stopped": submit(
            ["--partition=low", "--cpus-per-task=5"], ["trainer=ddp"], "{1:[0,1],2:[1],5:[0,1]}"
        ),
        "killed": submit([], ["trainer=fsdp"], "{5:[0,1]}"),
        "left": submit([], ["trainer=ddp"], "{4:[0,1],7:[0,1]}"),
    }


@pytest.fixture(scope="module")
def alone(jobs):
    jobs["alone"].wait("COMPLETED", 180)
    return jobs["alone"]


def test_signals_at_different_places_and_preemption_stop_at_a_step_and_go_on(jobs, alone):
    """SIGUSR1 while one rank waits for the other in a collective; then a higher job takes the place."""
    job = jobs["stopped"]
    job.wait_for_step(1)
    job.go(1)
    job.wait_for_step(2)
    ask("scancel", "--signal=USR1", job.number)
    time.sleep(1.0)  # the first rank cannot say that it has got it
    job.go(2)
    job.wait_for_words("SIGUSR1: stopping after this step", 10)
    job.wait("PENDING", 30)
    job.wait_for_words(f"job {job.number} is in the queue again", 10)
    job.wait_for_step(5)
    higher = [
        "--partition=high",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=4",
        "--output=/dev/null",
    ]
    ask("sbatch", *higher, "--wrap=sleep 1")
    job.wait_for_words("SIGTERM: stopping after this step", 20)
    job.go(5)
    job.wait("COMPLETED", 180)
    text = job.log.read_text()
    assert [f"going on at step {step} of " in text for step in (3, 6)] == [
        True,
        True,
    ]  # saved where they stopped
    assert text.count("going on at step") == job.restarts() == 2
    same(job, alone)


def test_a_sharded_run_whose_rank_is_killed_fails_at_once_and_goes_on_when_asked(jobs, alone):
    """The rank is named; nothing is put into the queue by itself, because a bug would come back for ever."""
    job = jobs["killed"]
    job.wait_for_step(5)
    _, host, process = job.place(1)
    start = time.monotonic()
    there = ["--overlap", f"--jobid={job.number}", f"--nodelist={host}", "--nodes=1", "--ntasks=1"]
    subprocess.run(["srun", *there, "kill", "-9", process], check=False, capture_output=True)
    job.wait("FAILED", 30)
    assert time.monotonic() - start < 20
    job.wait_for_words(f"rank 1 ({host}, process {process}) is gone: rank 0", 5)
    job.go(5)
    ask("scontrol", "requeue", job.number)
    job.wait("COMPLETED", 180)
    assert "going on at step 3 of " in job.log.read_text()
    same(job, alone, RTOL)


@pytest.fixture
def fault(cluster):
    """Runs the cluster's tool; at the end the nodes are there again."""
    tool = os.environ.get("LDM_TEST_CLUSTER")
    if not tool:
        pytest.skip("LDM_TEST_CLUSTER names no tool that takes nodes away")
    undo = {}

    def do(what: str, node: str) -> None:
        ask(tool, what, node)
        if what in ("crash", "cut"):
            undo[node] = {"crash": "boot", "cut": "mend"}[what]
        else:
            undo.pop(node, None)

    yield do
    for node, what in undo.items():
        ask(tool, what, node)


def test_nodes_without_power_or_network_are_left_and_the_run_goes_on(jobs, alone, fault):
    job = jobs["left"]
    for restarts, (what, undo, step) in enumerate((("crash", "boot", 4), ("cut", "mend", 7)), start=1):
        job.wait_for_step(step)
        _, node, _ = job.place(1)
        fault(what, node)
        wait(f"{what}: a restart", lambda n=restarts: job.restarts() == n, 60)
        job.go(step)
        fault(undo, node)
    job.wait("COMPLETED", 180)
    text = job.log.read_text()
    assert [f"going on at step {step} of " in text for step in (3, 6)] == [True, True]
    same(job, alone)
