from pathlib import Path

import pytest

from ldm.cli.outputs import output_paths, refuse_existing, slug
from ldm.utils.errors import UserError


def config(**changes):
    defaults = {"prompts": None, "output": None, "num_images_per_prompt": 1}
    return defaults | changes


def test_names_come_from_prompts():
    assert slug("Red heart, on a BLUE background!") == "red-heart-on-a-blue-background"
    assert slug("?!") == "image"
    assert output_paths(config(), ["red heart"]) == [Path("outputs/red-heart.png")]


def test_several_images_are_numbered(tmp_path):
    paths = output_paths(config(output=str(tmp_path / "a.png"), num_images_per_prompt=2), ["x", "y"])
    assert [p.name for p in paths] == ["a-0000.png", "a-0001.png", "a-0002.png", "a-0003.png"]
    assert [p.name for p in output_paths(config(), ["x", "y"])] == ["x-0000.png", "y-0001.png"]


def test_a_file_of_prompts_fills_a_folder():
    paths = output_paths(config(prompts="texts/sunny days.txt"), ["pizza", "rocket"])
    assert paths == [Path("outputs/sunny days/0000.png"), Path("outputs/sunny days/0001.png")]
    with pytest.raises(UserError, match=r"output: must be a folder for a file of prompts, got a.png"):
        output_paths(config(prompts="sunny days.txt", output="a.png"), ["pizza"])


def test_names_of_many_images_are_equally_long():
    paths = output_paths(config(prompts="p.txt", output="out"), ["x"] * 10_001)
    assert (paths[0], paths[-1]) == (Path("out/00000.png"), Path("out/10000.png"))


def test_an_image_is_a_png():
    with pytest.raises(UserError, match=r"output: must end in .png, got 'a.jpg'"):
        output_paths(config(output="a.jpg"), ["x"])
    assert output_paths(config(output="A.PNG"), ["x"]) == [Path("A.PNG")]


def test_the_first_file_that_exists_is_named(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    refuse_existing(paths, overwrite=False)
    paths[1].touch()
    refuse_existing(paths, overwrite=True)
    with pytest.raises(UserError, match=r"output: .*b.png exists; choose another output or overwrite=true"):
        refuse_existing(paths, overwrite=False)
