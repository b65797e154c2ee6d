import re

import pytest
import torch
from PIL import Image

from ldm.evaluation.page import columns_of, labelled, names_in, picture, section, table
from ldm.utils.image_io import make_grid, save_png


def grid(path, count, columns, side=4, prompts=None):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, side, side)
    names = prompts or [f"prompt {i}" for i in range(count)]
    save_png(make_grid(images, columns), path, {"prompts": "\n".join(names)})
    return path


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 4), (16, 8), (131, 16), (7, 3)])
def test_the_columns_of_our_grids_are_found(tmp_path, count, columns):
    with Image.open(grid(tmp_path / "a.png", count, columns, side=8)) as image:
        width, height = image.size
    assert columns_of(width, height, count) == columns


def test_another_picture_has_no_columns():
    assert columns_of(100, 37, 5) is None


def test_each_prompt_stands_below_its_part_of_the_picture(tmp_path):
    page = labelled(grid(tmp_path / "prompts.png", 5, 3, side=30))
    assert re.findall(r"<span>(.*?)</span>", page) == [f"prompt {i}" for i in range(5)]
    size = [float(v) for v in re.search(r"background-size:([\d.]+)% ([\d.]+)%", page).groups()]
    places = re.findall(r"background-position:([\d.]+)% ([\d.]+)%", page)
    whole = [s / 100 for s in size]  # of the picture, in cells
    for i, place in enumerate(places):
        left, top = (float(p) / 100 * (w - 1) for p, w in zip(place, whole, strict=True))
        assert left * 32 == pytest.approx(i % 3 * 32 + 1, abs=0.05)
        assert top * 32 == pytest.approx(i // 3 * 32 + 1, abs=0.05)
    assert page.count("data:image/png;base64,") == 1


def test_prompts_are_escaped_and_labels_take_their_place(tmp_path):
    path = grid(tmp_path / "a.png", 2, 2, prompts=["<b>", "c"])
    assert "<b>" not in labelled(path)
    assert "<span><em>1</em></span>" in labelled(path, ["<em>1</em>", "2"])


def test_many_images_are_one_picture_with_a_list(tmp_path):
    page = labelled(grid(tmp_path / "all.png", 131, 16))
    assert "<img" in page
    assert "the 131 prompts" in page


def test_a_picture_that_says_nothing_is_shown_as_it_is(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert labelled(tmp_path / "a.png") == picture(tmp_path / "a.png")
    assert names_in(tmp_path / "none.png") == []
    assert labelled(tmp_path / "none.png") == ""


def test_what_is_empty_is_left_out():
    assert section("Title", "", "") == ""
    assert table(["a"], []) == ""
    assert "&lt;x&gt;" in table(["a"], [["<x>"]])
