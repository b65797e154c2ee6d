"""What a command does with its line: mistakes are one line and a status, ranks share a run directory."""

import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from ldm.cli.app import entry
from ldm.cli.resolvers import _wandb_offline
from ldm.utils.errors import UserError

PRIMARY = """
defaults:
  - hydra: default
  - paths: default
  - optimizer: adamw
  - trainer: null
  - _self_
name: trial
seed: 0
text: null
"""


class Recorder:
    """A command whose task records what it sees and then does `action`."""

    def __init__(self):
        self.seen = []
        self.action = lambda cfg: None

    def task(self, cfg):
        config = HydraConfig.get()
        self.seen.append((cfg, [*sys.argv], config.run.dir, Path(config.runtime.output_dir)))
        self.action(cfg)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `ldm-trial` with arguments in an empty folder and returns (status, stdout, stderr, recorder)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "trial.yaml").write_text(PRIMARY)
    recorder = Recorder()
    level, handlers = logging.root.level, [*logging.root.handlers]

    def run(*argv, action=lambda cfg: None):
        def trial(cfg):
            recorder.task(cfg)

        recorder.action = action
        recorder.seen.clear()
        main = entry("trial", resumable=True)(trial)
        capsys.readouterr()
        status = main(["--config-dir", "conf", *argv])
        out, err = capsys.readouterr()
        return status, out, err, recorder.seen

    yield run
    for handler in [h for h in logging.root.handlers if h not in handlers]:
        logging.root.removeHandler(handler)
        handler.close()
    logging.root.setLevel(level)


def runs():
    return sorted(p for p in Path("runs").rglob("*") if p.is_file()) if Path("runs").exists() else []


def test_the_task_gets_the_composed_config_and_a_run_directory(command):
    paths = []
    status, _, err, seen = command(
        "seed=3", "optimizer.lr=0.1", action=lambda cfg: paths.append(cfg["paths"]["run"])
    )
    assert (status, err) == (0, "")
    ((cfg, _, run_dir, output),) = seen
    assert (cfg["seed"], cfg["optimizer"]["lr"], cfg["name"]) == (3, 0.1, "trial")
    assert output == Path(run_dir).absolute()
    assert output.parent == Path("runs/trial").absolute()
    assert paths == [str(output)]
    assert (output / ".hydra" / "config.yaml").exists()


def test_slurm_job_id_names_the_run_directory(command, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert command()[3][0][2] == "runs/trial/4711"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["sed=1"], "sed: unknown key; did you mean 'seed'?"),
        (
            ["optimizer.lrr=1"],
            "optimizer.lrr: unknown key; did you mean 'optimizer.lr'? +optimizer.lrr=... passes it to torch",
        ),
        (["+optimizer.lrr=1"], "optimizer.lrr: unknown key; did you mean 'lr'? allowed: "),
        (["optimizer.lr=fast"], "optimizer.lr: must be float"),
        (
            ["optimizer._target_=os.system"],
            "optimizer._target_: 'os.system' is not allowed; targets start with ldm.",
        ),
        (["optimizer=adamv"], "optimizer=adamv: no such option; did you mean 'adamw'? available: adamw"),
        (["seed=["], "seed: must be one value, got '[': its brackets"),
        (["name=${nope}"], "hydra.run.dir: Interpolation key 'nope' not found"),
        (["text=???"], "text: needs a value (text=...)"),
        (["--xyzzy"], "--xyzzy: no such flag; ldm-trial --help lists flags and keys"),
        (["--multirun", "sed=1,2"], "sed: unknown key; did you mean 'seed'?"),
        (["--run", "--cfg", "job"], "argument --cfg/-c: not allowed with argument --run/-r"),
        (["--config-name", "nope"], "Cannot find primary config 'nope'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_and_leaves_nothing(command, argv, line):
    status, out, err, seen = command(*argv)
    assert (status, out, seen) == (2, "", [])
    assert err.startswith(f"ldm-trial: {line}"), err
    assert err.count("\n") == 1
    assert {p.name for p in runs()} <= {"multirun.yaml"}


RESUME = (
    "stopped; resume with: ldm-trial --config-dir conf "
    """seed=3 'text='"'"'a b'"'"'' hydra.run.dir={here}/here"""
)


def raises(error):
    def action(cfg):
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (OSError(28, "No space left on device", "runs/x.ckpt"), 1, "runs/x.ckpt: No space left on device"),
        (PermissionError(13, "Permission denied", "runs"), 1, "runs: Permission denied"),
        (FileNotFoundError(2, "No such file or directory", "data"), 2, "data: No such file or directory"),
        (KeyboardInterrupt(), 130, RESUME),
    ],
)
def test_a_failure_is_one_line(command, error, status, line):
    words = ["seed=3", "text='a b'", "hydra.run.dir=here"]
    line = line.format(here=Path.cwd())
    assert command(*words, action=raises(error))[:3] == (
        status,
        "",
        f"ldm-trial: {line.format(here=Path.cwd())}\n",
    )


def test_an_unwritable_run_directory_is_one_line(command):
    Path("file").write_text("")
    status, _, err, _ = command("paths.runs=file")
    assert status == 1
    assert err.startswith("ldm-trial: ")
    assert err.endswith(": Not a directory\n")


def test_a_user_error_is_a_mistake_and_another_error_a_bug(command):
    status, _, err, _ = command(action=raises(UserError("seed must be even, got 1")))
    assert (status, err) == (2, "ldm-trial: seed: must be even, got 1\n")
    status, _, err, _ = command(action=raises(ValueError("deep inside")))
    assert status == 1
    assert err.startswith("Traceback")


def test_traceback_on_demand(command, monkeypatch):
    monkeypatch.setenv("LDM_TRACEBACK", "1")
    status, _, err, _ = command("optimizer.lr=fast")
    assert status == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("ldm-trial: optimizer.lr: must be float")


def test_lightnings_exit_after_ctrl_c_is_an_interrupt(command):
    def action(cfg):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    assert command(action=action)[0] == 130


def test_a_mistake_keeps_what_the_run_wrote(command):
    def action(cfg):
        Path(cfg["paths"]["run"], "last.ckpt").write_text("x")
        raise FileNotFoundError(2, "gone", "x")

    assert command(action=action)[0] == 2
    assert any(p.name == "last.ckpt" for p in runs())


def test_multirun_runs_every_job_and_reports_the_worst(command):
    def action(cfg):
        if cfg["seed"] == 1:
            raise FileNotFoundError(2, "gone", "x")

    status, _, err, seen = command("--multirun", "seed=0,1,2", action=action)
    assert (status, [cfg["seed"] for cfg, *_ in seen]) == (2, [0, 1, 2])
    assert err == "ldm-trial: x: gone\n"
    assert len({output for *_, output in seen}) == 3


def test_flags_may_stand_anywhere(command):
    status, _, err, seen = command(
        "seed=1", "--multirun", "text=a,b", "--config-name=trial", "optimizer.lr=0.5"
    )
    assert (status, err) == (0, "")
    found = [(cfg["seed"], cfg["text"], cfg["optimizer"]["lr"]) for cfg, *_ in seen]
    assert found == [(1, "a", 0.5), (1, "b", 0.5)]


def test_a_job_of_a_sweep_gives_other_ranks_its_own_line_and_directory(command):
    _, _, _, seen = command("--multirun", "seed=1,2", "hydra.sweep.subdir=job${hydra.job.num}")
    for i, (_, argv, run_dir, output) in enumerate(seen):
        assert argv[1:] == ["--config-dir", "conf", f"seed={i + 1}"]
        assert Path(run_dir) == output
        assert output.name == f"job{i}"


def test_a_job_of_a_sweep_leaves_no_environment_to_the_next(command):
    found = []

    def action(cfg):
        found.append(os.environ.get("MASTER_PORT"))
        os.environ["MASTER_PORT"] = "1"

    assert command("--multirun", "seed=1,2", action=action)[0] == 0
    assert found == [None, None]


def test_other_ranks_share_the_directory_and_write_no_config(command, monkeypatch):
    ((_, _, run_dir, _),) = command()[3]
    before = {p: p.read_bytes() for p in runs()}
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LDM_LAUNCHER", "1")  # a process that lives
    ((_, _, other, _),) = command(f"hydra.run.dir={run_dir}", "hydra.output_subdir=null")[3]
    assert other == run_dir
    after = {p: p.read_bytes() for p in runs()}
    assert {p.name for p in after.keys() - before.keys()} == {"trial_rank_1.log"}
    assert before.items() <= after.items()


def test_other_ranks_say_who_they_are(command, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "torchrun")
    assert command(action=raises(OSError(5, "I/O error", "x")))[2] == "ldm-trial (rank 3): x: I/O error\n"
    assert command(action=raises(KeyboardInterrupt()))[2] == ""


def test_help_shows_groups_and_config(command):
    status, out, err, _ = command("--help")
    assert (status, err) == (0, "")
    assert out.startswith("usage: ldm-trial ")
    assert "(cpu, ddp, fsdp, gpu)" in out
    assert "seed=0" in out
    assert runs() == []


def test_cfg_job_shows_the_config(command):
    status, out, err, _ = command("--cfg", "job", "trainer=gpu")
    assert (status, err) == (0, "")
    assert "accelerator: gpu" in out


def test_shell_completion(command, tmp_path):
    status, out, _, _ = command("-sc", "install=bash")
    assert status == 0
    assert "COMP_LINE" in out


def test_completion_and_help_from_the_shell_import_no_torch(tmp_path, command):
    script = tmp_path / "trial.py"
    script.write_text(
        "import sys\nfrom ldm.cli.app import entry\n\n@entry('trial')\ndef main(cfg): pass\n"
        "status = main()\nsys.exit(99 if 'torch' in sys.modules else status)\n"
    )
    line = f"trial.py --config-dir {tmp_path / 'conf'} trainer="
    env = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": "1"}
    for flags in ("-sc query=bash", "--help", "--cfg job"):
        result = subprocess.run(
            [sys.executable, str(script), "--config-dir", str(tmp_path / "conf"), *shlex.split(flags)],
            capture_output=True,
            text=True,
            env=env,
        )
        assert result.returncode == 0, result.stderr
        assert "cpu" in result.stdout or flags == "--cfg job"


@pytest.mark.parametrize(
    ("env", "offline"),
    [({}, True), ({"WANDB_API_KEY": "x"}, False), ({"WANDB_MODE": "offline", "WANDB_API_KEY": "x"}, True)],
)
def test_wandb_is_offline_without_a_login(env, offline, monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert _wandb_offline() is offline
