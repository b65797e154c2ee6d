from pathlib import Path

import pytest

from ldm.cli.config import ConfigError
from ldm.cli.sample import main, output_paths, slug


def test_names_come_from_prompts():
    assert slug("Red heart, on a BLUE background!") == "red-heart-on-a-blue-background"
    assert slug("?!") == "image"
    assert output_paths(None, ["red heart"], 1, False) == [Path("outputs/red-heart.png")]


def test_several_images_are_numbered(tmp_path):
    paths = output_paths(str(tmp_path / "a.png"), ["x", "y"], 2, False)
    assert [p.name for p in paths] == ["a-0000.png", "a-0001.png", "a-0002.png", "a-0003.png"]
    paths = output_paths(None, ["x", "y"], 1, False)
    assert [p.name for p in paths] == ["x-0000.png", "y-0001.png"]


def test_existing_files_are_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "a-0001.png").touch()
    with pytest.raises(ConfigError, match=r"a-0001\.png exists.*overwrite=true"):
        output_paths(str(tmp_path / "a.png"), ["x", "y"], 1, False)
    assert len(output_paths(str(tmp_path / "a.png"), ["x", "y"], 1, True)) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "prompt"),
        (["prompt=x", "output=a.jpg"], ".png"),
        (["prompt=x", "checkpoint=/no/such/file"], "/no/such/file"),
        (["prompt=x", "guidence_scale=3"], "guidance_scale"),
        (["prompt=x", "device=tpu"], "device"),
        (["prompt=x", "mode=video"], "mode"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert says in lines[0]
    assert not list(tmp_path.iterdir())
