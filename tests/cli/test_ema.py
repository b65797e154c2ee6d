"""ldm-ema on a run's snapshots: what it makes, and its mistakes; the run's own averages are the oracle."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ldm.checkpoints import load_model
from ldm.checkpoints.store import CheckpointStore
from ldm.cli import ema, sample, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::DeprecationWarning")
SHORT = [
    "experiment=tiny",
    "threads=1",
    "first_stage.max_steps=2",
    "trainer.max_steps=40",
    "evaluation=prompts",
    "lr_schedule.total_images=1200",  # the same schedule however long the run
    "sampling.num_inference_steps=2",
    "callbacks.checkpoint.every_n_steps=7",
    "callbacks.ema.every_n_images=24",
]


def run(folder, *overrides):
    assert train.main([*SHORT, f"hydra.run.dir={folder}", *overrides]) == 0
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("ema") / "run")


def averages(folder):
    """The averages in the last checkpoint, by their place."""
    store = CheckpointStore(folder / "checkpoints")
    state = torch.load(store.path(store.newest()) / "state.ckpt", weights_only=True)["state_dict"]
    found = {}
    for name, x in state.items():
        if name.startswith("powers."):
            _, place, rest = name.split(".", 2)
            found.setdefault(int(place), {})[rest] = x
    return found


def made(folder, output, *overrides):
    assert ema.main([f"run={folder}", f"output={output}", *overrides]) == 0
    return load_file(output)


def test_snapshots_are_those_of_the_interval_and_hold_what_the_checkpoint_holds(finished):
    assert sorted(int(p.stem.removeprefix("images_")) for p in (finished / "ema").iterdir()) == [
        24 * i for i in range(1, 21)
    ]
    last, (narrow, wide) = (
        load_file(finished / "ema" / "images_000000000480.safetensors"),
        averages(finished).values(),
    )
    for width, average in (("0.05", narrow), ("0.1", wide)):
        for name, x in average.items():
            assert torch.equal(last[f"{width}/{name}"], x.half() if x.is_floating_point() else x)
    assert len(last) == len(narrow) + len(wide)


@pytest.mark.parametrize(("width", "place"), [(0.05, 0), (0.1, 1)])
def test_a_width_that_was_kept_is_the_one_kept(finished, tmp_path, width, place):
    model = made(finished, tmp_path / "a.safetensors", f"sigma_rel={width}")
    kept = averages(finished)[place]
    for name, x in kept.items():
        assert torch.equal(model[name], x.half() if x.is_floating_point() else x)
    assert {name for name in model if not name.startswith("autoencoder.")} == set(kept)


def test_other_widths_are_those_tracked_by_another_run(finished, tmp_path):
    """The same training that keeps these; the error is that of few steps, two from snapshot to snapshot."""
    given = f"first_stage.checkpoint={finished}/autoencoder.safetensors"
    other = averages(run(tmp_path / "run", given, "task.power_ema=[0.07,0.15]"))
    for width, tracked in zip((0.07, 0.15), other.values(), strict=True):
        model = made(finished, tmp_path / f"{width}.safetensors", f"sigma_rel={width}", "dtype=fp32")
        names = [name for name, x in tracked.items() if x.is_floating_point()]

        def distance(a, b=tracked, names=names):
            return sum((a[n].double() - b[n].double()).square().sum() for n in names).sqrt().item()

        assert distance(model) < 0.06 * min(distance(kept) for kept in averages(finished).values())


def test_an_earlier_point_and_its_recipe(finished, tmp_path):
    path = tmp_path / "a.safetensors"
    assert ema.main([f"run={finished}", f"output={path}", "sigma_rel=0.12", "images=240"]) == 0
    training = load_model(path).config["training"]
    assert training == {"name": "tiny", "seed": 0, "steps": 20, "images": 240, "sigma_rel": 0.12}


def test_ldm_sample_reads_it(finished, tmp_path):
    made(finished, tmp_path / "a.safetensors", "sigma_rel=0.12")
    command = [
        f"checkpoint={tmp_path}/a.safetensors",
        "prompt=red circle",
        f"output={tmp_path}/a.png",
        "threads=1",
    ]
    assert sample.main(command) == 0
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["sigma_rel=0.5"], "sigma_rel: must be in (0, 0.2887), got 0.5"),
        (
            ["sigma_rel=0.004"],
            "sigma_rel: must be within reach of the 40 averages kept, got 0.004 at",
        ),
        (["sigma_rel=wide"], "sigma_rel: must be a number, got 'wide'"),
        (
            ["sigma_rel=0.1", "images=7"],
            "images: must be those of a snapshot, 24, 48, 72, 96, ..., 432, 456, 480, got 7",
        ),
        (["sigma_rel=0.1", "run=/no/where"], "run: must be the directory of a training run, got /no/where"),
        (["sigma_rel=0.1", "dtype=int8"], "dtype: must be one of"),
        (["sigma_rel=0.1", "output=a.ckpt"], "output: must end in .safetensors"),
        (["sigma_rell=0.1"], "did you mean 'sigma_rel'"),
        ([], "sigma_rel: needs a value"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(finished, tmp_path, capsys, overrides, says):
    assert ema.main([f"run={finished}", f"output={tmp_path}/a.safetensors", *overrides]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
    assert not list(tmp_path.iterdir())


def test_runs_without_snapshots_and_files_that_exist_are_refused(finished, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert ema.main([f"run={tmp_path}/run", f"output={tmp_path}/a.safetensors", "sigma_rel=0.1"]) == 2
    assert "no snapshots in" in capsys.readouterr().err
    (tmp_path / "a.safetensors").write_text("kept")
    assert ema.main([f"run={finished}", f"output={tmp_path}/a.safetensors", "sigma_rel=0.1"]) == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "a.safetensors").read_text() == "kept"


def files(folder):
    return {path.name: path.read_bytes() for path in (folder / "ema").iterdir()}


def test_a_stopped_run_keeps_the_same_snapshots_bit_for_bit(finished, tmp_path):
    """Stopped between two moments, with leftovers of a process that got further and was killed.

    Those that are thinned to a budget are in tests/training/test_kills.py.
    """
    given = f"first_stage.checkpoint={finished}/autoencoder.safetensors"
    folder = run(tmp_path / "stopped", given, "trainer.max_steps=17", "lr_schedule.total_images=480")
    assert max(files(folder)) == "images_000000000204.safetensors"
    (folder / "ema" / "images_000000000408.safetensors").write_bytes(b"of another life")
    (folder / "ema" / "images_000000000410.safetensors").write_bytes(b"of another life")
    (folder / "ema" / ".images_000000000432.safetensors.1.tmp").write_bytes(b"torn")
    assert files(run(folder, given)) == files(finished)


def test_a_budget_that_is_too_small_is_one_line_and_status_2(finished, tmp_path, capsys):
    given = f"first_stage.checkpoint={finished}/autoencoder.safetensors"
    small = "callbacks.ema.budget_gigabytes=0.001"
    assert train.main([*SHORT, given, f"hydra.run.dir={tmp_path}/run", small]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "budget_gigabytes: must be at least 0.00" in last
    assert not (tmp_path / "run" / "ema").exists()


def test_other_averages_than_those_of_the_checkpoint_are_refused(finished, tmp_path, capsys):
    """With what they would hold of the training before, they would be none of the widths asked for."""
    given = [f"first_stage.checkpoint={finished}/autoencoder.safetensors"]
    resume = f"resume={finished}/checkpoints/step_00000040"
    for changes in (["task.power_ema=[0.05,0.2]"], ["task.power_ema=[]", "~callbacks.ema"]):
        steps = "trainer.max_steps=41"
        assert train.main([*SHORT, *given, resume, steps, f"hydra.run.dir={tmp_path}/run", *changes]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert "task.power_ema: cannot change on resume from [0.05, 0.1] to" in last


def test_the_config_in_a_snapshot_is_plain_and_says_its_step(finished):
    from ldm.checkpoints.snapshots import read_snapshots

    first = read_snapshots(Path(finished))[0]
    assert json.loads(json.dumps(first.config))["training"] == {
        "name": "tiny",
        "seed": 0,
        "steps": 2,
        "images": 24,
    }
    assert first.sigma_rel == (0.05, 0.1)
