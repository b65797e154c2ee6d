"""Settings of a config file that would have no effect are refused."""

from importlib import resources
from pathlib import Path

import pytest

from ldm.cli import sample, train
from ldm.cli.compose import compose
from ldm.cli.stray_keys import GLOBAL, HEADER, known_keys

CONF = Path(str(resources.files("ldm.conf")))
DRY = ["--config-dir", "mine", "experiment=own", "--cfg", "job"]
BODY = "defaults:\n  - tiny\ntrainer:\n  max_steps: 2\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes an experiment of the user's own."""
    monkeypatch.chdir(tmp_path)
    path = Path("mine/experiment/own.yaml")
    path.parent.mkdir(parents=True)
    return lambda text, encoding="utf-8": path.write_text(text, encoding=encoding)


def refused(capsys, main=train.main, words=("debug=dry",)):
    assert main(["--config-dir", "mine", "experiment=own", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not Path("runs").exists()
    return line


@pytest.mark.parametrize(("encoding", "end"), [("utf-8", HEADER), ("utf-8-sig", "mark before it")])
def test_an_experiment_without_its_header_is_refused(own, encoding, end, capsys):
    own((HEADER + "\n" if encoding == "utf-8-sig" else "") + BODY, encoding)
    line = refused(capsys)
    assert "experiment=own would have no effect" in line
    assert line.endswith(end)


def test_an_unknown_key_of_a_file_is_refused_with_the_nearest(own, capsys):
    own(f"{HEADER}\n{BODY}trainr:\n  max_steps: 3\n")
    assert refused(capsys).endswith("trainr: unknown key, set by a config file; did you mean 'trainer'?")


@pytest.mark.parametrize(
    "text", [f"{HEADER}\n{BODY}", f"{HEADER}\nsteps: 2\n{BODY.replace(' 2', ' ${steps}')}"]
)
def test_a_key_that_others_refer_to_is_the_users_own(own, text, capsys):
    own(text)
    assert train.main(["--config-dir", "mine", "experiment=own", "+more=1", "debug=dry"]) == 0


def test_modes_of_other_commands_have_the_header_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine/mode").mkdir(parents=True)
    Path("mine/mode/own.yaml").write_text("kind: text2img\n")
    assert sample.main(["--config-dir", "mine", "mode=own", "prompt=a"]) == 2
    assert (
        f"mode=own would have no effect: the first line of its file must be {HEADER}"
        in capsys.readouterr().err
    )


def test_groups_whose_options_are_global_are_listed():
    groups = {path.parent.name for path in CONF.glob("*/*.yaml")}
    found = {g for g in groups if all(p.read_text().startswith(HEADER) for p in (CONF / g).glob("*.yaml"))}
    assert found == GLOBAL


@pytest.mark.parametrize("name", ["train", "sample", "data", "convert", "ema", "plan"])
def test_no_key_of_our_configs_is_stray(name):
    required = {
        "convert": ["input=a", "output=b"],
        "ema": ["run=a"],
        "plan": ["experiment=tiny"],
        "train": ["experiment=tiny"],
    }
    config = compose(name, required.get(name, []))
    assert config.keys() <= known_keys(name)
