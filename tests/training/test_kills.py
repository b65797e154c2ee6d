"""A run killed by SIGKILL at random instants ends bit for bit as one left alone; so on changing ranks.

The processes are those of experiments/exact_resume/kills.py.
"""

import pytest


@pytest.fixture(scope="module")
def ranks(kills):
    import ranks

    return ranks


@pytest.fixture(scope="module")
def runner(kills, tmp_path_factory):
    return kills.Runner(tmp_path_factory.mktemp("log"))


def compare(kills, runner, tmp_path, count, seed, *more, accumulate=1):
    argv = [*kills.TINY, *kills.STAGE_OF_ITS_OWN, *more]
    runner.finish([*argv, f"hydra.run.dir={tmp_path}/alone"])
    fallen, runs = kills.endure(runner, argv, tmp_path / "killed", count, seed, accumulate)
    assert sum(fallen.values()) == count
    for run in runs:
        assert kills.differences(tmp_path / "alone", run) == dict.fromkeys(
            ("parameters", "EMA", "optimizer", "logged numbers", "pictures", "EMA snapshots", "model"), 0
        )
    return fallen


def test_the_comparison_sees_a_single_bit(kills, runner, tmp_path):
    """Another seed gives other weights, curves and pictures: zeros of `differences` mean something."""
    short = [*kills.TINY, "first_stage.max_steps=2"]
    for seed in (0, 1):
        runner.finish([*short, f"seed={seed}", f"hydra.run.dir={tmp_path}/{seed}"])
    assert all(kills.differences(tmp_path / "0", tmp_path / "1").values())


def test_seven_kills_of_all_kinds_leave_no_trace(kills, runner, tmp_path):
    assert len(compare(kills, runner, tmp_path, 7, 0)) >= 4


@pytest.mark.slow
def test_five_kills_amid_accumulation_leave_no_trace(kills, runner, tmp_path):
    compare(kills, runner, tmp_path, 5, 1, "trainer.accumulate_grad_batches=4", accumulate=4)


@pytest.mark.slow
def test_five_kills_with_loader_processes_leave_no_trace(kills, runner, tmp_path):
    compare(kills, runner, tmp_path, 5, 2, "data.num_workers=2")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_hundred_kills_leave_no_trace(kills, runner, tmp_path, workers, accumulate):
    more = [f"data.num_workers={workers}", f"trainer.accumulate_grad_batches={accumulate}"]
    compare(kills, runner, tmp_path, 26, 10 + workers + accumulate, *more, accumulate=accumulate)


@pytest.mark.dist
def test_ranks_and_accumulation_may_change_at_each_restart(kills, ranks, runner, tmp_path):
    """1x4, 2x2 and 4x1: the same batches and draws bit for bit, losses but for the order of fp32 sums."""
    runner.finish([*kills.TINY, "first_stage.max_steps=2", f"hydra.run.dir={tmp_path}/first"])
    first, folders = (
        tmp_path / "first" / "autoencoder.safetensors",
        (tmp_path / "alone", tmp_path / "changing"),
    )
    for folder, shapes in zip(folders, ([(1, 4)], ranks.SHAPES), strict=True):
        ranks.change(runner, folder, first, shapes)
    ours, theirs = map(ranks.drawn, folders)
    assert ours == theirs
    assert len(theirs) == 24 * 12
    curves = [ranks.losses(folder) for folder in folders]
    assert [step for step, _ in curves[0]] == [step for step, _ in curves[1]]
    assert [loss for _, loss in curves[0]] == pytest.approx([loss for _, loss in curves[1]], rel=2e-5)
