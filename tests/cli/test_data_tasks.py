"""ldm-data index, bench and the writers of shards."""

import re
from pathlib import Path

import pytest
from PIL import Image

from ldm.cli.data import main


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos" / "cat"
    folder.mkdir(parents=True)
    for i in range(6):
        Image.new("RGB", (24 + i, 20), (40 * i, 0, 0)).save(folder / f"{i}.png")
    return tmp_path


def test_a_folder_becomes_shards_that_are_indexed_and_measured(photos, capsys):
    assert main(["imagefolder", "data.root=photos", "output=shards", "per_shard=4"]) == 0
    assert sorted(p.name for p in Path("shards").iterdir()) == ["00000.tar", "00001.tar"]
    assert "6 samples in shards" in capsys.readouterr().out
    assert main(["index", "data.shards=shards/*.tar", "data.filters.min_size=20"]) == 0
    out = capsys.readouterr().out
    assert "6 samples in 2 shards" in out
    assert "6 of them pass the filters" in out
    small = ["data.shards=shards/*.tar", "data.batch_size=2", "data.image_size=16", "seconds=0.01"]
    assert main(["bench", "data=laion", *small]) == 0
    out, err = capsys.readouterr()
    assert "num_workers=0:" in out
    assert "best: data.num_workers=" in out
    assert re.search(r"recommended: data.num_workers=\d+, the smallest within 5% of the best", out)
    assert err.count("samples are used") == 1
    assert "one process is limited by:" in out
    assert main(["data=laion", "output=show.png", *small]) == 0
    with Image.open("show.png") as image:
        assert image.width > 16


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["action=draw"], "action: must be one of show, index"),
        (["index"], "data.shards: needs a value"),
        (["index", "data.shards=none/*.tar"], "no tar shards at none/*.tar"),
        (["index", "data=emoji"], "data: only tar shards have an index"),
        (["imagefolder", "data.root=photos"], "output: needs a folder"),
        (["imagefolder", "data.root=nowhere", "output=s"], "no folder at nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, says, photos, capsys):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
    assert not Path("s").exists()
