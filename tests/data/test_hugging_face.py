"""Shards of a Hugging Face dataset hold its files as they are; what cannot be used is counted."""

import io
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.cli.data import main
from ldm.data.hugging_face import open_dataset, samples_of
from ldm.data.laion import LaionData

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:datasets")


def picture(i):
    pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def file_of(i, kind="PNG"):
    out = io.BytesIO()
    picture(i).save(out, kind)
    return out.getvalue()


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    """Nothing is written outside the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def read_back(count):
    data = LaionData(shards="shards/*.tar", batch_size=count, image_size=16)
    batch = data.batch(0)
    images = ((batch["image"] + 1) * 127.5).round().byte().movedim(1, -1)
    return dict(zip(batch["caption"], images, strict=True))


def check(found, numbers):
    for caption, i in numbers.items():
        assert torch.equal(found[caption], torch.from_numpy(np.array(picture(i)))), caption
    assert set(found) == set(numbers)


def test_a_saved_dataset_becomes_shards(capsys):
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    texts = [f"photo {i}" for i in range(7)]
    texts[2], texts[5] = None, "  "
    columns = {"image": [picture(i) for i in range(7)], "text": texts}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk("saved")
    assert main(["hf", "dataset=saved", "output=shards", "per_shard=3"]) == 0
    out = capsys.readouterr().out
    assert "2 left out: no caption" in out
    assert "5 samples in shards" in out
    assert len(list(Path("shards").glob("*.tar"))) == 2
    check(read_back(5), {f"photo {i}": i for i in range(7) if i not in (2, 5)})


@pytest.mark.parametrize("named", ["data.parquet", "."])
def test_parquet_with_image_bytes_becomes_shards_and_damage_is_counted(named, capsys):
    files = [file_of(0), file_of(1)[:90], b"no image", None, file_of(4, "BMP"), file_of(5, "WEBP")]
    columns = {"jpg": files, "title": [f"photo {i}" for i in range(6)]}
    Path("rows").mkdir()
    datasets.Dataset.from_dict(columns).to_parquet("rows/data.parquet")
    name = f"rows/{named}"
    assert main(["hf", f"dataset={name}", "image_column=jpg", "caption_column=title", "output=shards"]) == 0
    out = capsys.readouterr().out
    assert "2 left out: damaged image" in out
    assert "1 left out: no image" in out
    found = read_back(3)
    assert set(found) == {"photo 0", "photo 4", "photo 5"}
    assert torch.equal(found["photo 4"], torch.from_numpy(np.array(picture(4))))


def test_files_stay_as_they_are_and_labels_give_their_names():
    labels = datasets.ClassLabel(names=["a cat", "a dog"])
    features = datasets.Features({"image": datasets.Image(), "label": labels})
    columns = {"image": [{"bytes": file_of(i, "JPEG"), "path": None} for i in range(3)], "label": [1, 0, -1]}
    made = datasets.Dataset.from_dict(columns, features=features)
    skipped = Counter()
    first, second = samples_of(made, "image", "label", skipped)
    assert (first.caption, second.caption) == ("a dog", "a cat")
    assert first.image == file_of(0, "JPEG")
    assert (first.extension, first.said) == ("jpg", {"width": 16, "height": 16})
    assert skipped == {"no caption": 1}


def test_splits_are_chosen():
    parts = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk("saved")
    assert open_dataset("saved", "test")["text"][0] == "test"
    with pytest.raises(ValueError, match=r"split must be one of train, test, got 'validation'"):
        open_dataset("saved", "validation")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "dataset: needs a value"),
        (["dataset=saved"], "output: needs a value"),
        (
            ["dataset=saved", "output=s", "image_column=photo"],
            "image_column: must be one of image, text, n, got 'photo'",
        ),
        (["dataset=saved", "output=s", "image_column=text"], "does not hold images: str"),
        (["dataset=saved", "output=s", "caption_column=n"], "neither texts nor class labels"),
        (["dataset=rows.parquet", "output=s", "split=test"], "rows.parquet: cannot be loaded:"),
        (["dataset=rows.txt", "output=s"], "rows.txt: must be one of .parquet"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, says, capsys):
    columns = {"image": [file_of(0)], "text": ["a"], "n": [1]}
    datasets.Dataset.from_dict(columns).save_to_disk("saved")
    datasets.Dataset.from_dict(columns).to_parquet("rows.parquet")
    Path("rows.txt").write_text("a")
    assert main(["hf", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
    assert not Path("s").exists()


def test_the_library_is_asked_for_where_it_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert main(["hf", "dataset=saved", "output=s"]) == 2
    assert "pip install 'ldm[hf]'" in capsys.readouterr().err


def test_the_command_reads_an_imagefolder_with_metadata():
    Path("d/train").mkdir(parents=True)
    names = ["a.png", "b.jpg"]
    for i, name in enumerate(names):
        Path("d/train", name).write_bytes(file_of(i, "JPEG" if name == "b.jpg" else "PNG"))
    lines = [f'{{"file_name": "{name}", "title": "red {i}", "by": "me"}}' for i, name in enumerate(names)]
    Path("d/train/metadata.jsonl").write_text("\n".join(lines))
    assert main(["hf", "dataset=d", "caption_column=title", "output=shards"]) == 0
    assert set(read_back(2)) == {"red 0", "red 1"}
