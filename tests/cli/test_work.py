import pytest

from ldm.cli.work import as_floats, items, read_prompts
from ldm.utils.errors import UserError


def config(**changes):
    defaults = {"prompt": None, "prompts": None, "seed": 0}
    return defaults | {"num_images_per_prompt": 1, "negative_prompt": None, "num_images": None} | changes


def test_image_i_draws_from_the_seed_and_i():
    cfg = config(seed=7, num_images_per_prompt=2, negative_prompt=["u", "v"])
    found = [tuple(i.values()) for i in items(cfg, ["x", "y"])]
    assert found == [("x", "u", 7, 0), ("x", "u", 7, 1), ("y", "v", 7, 2), ("y", "v", 7, 3)]
    listed = items(config(seed=[5, 3]), ["x", "y"])
    assert [(i["seed"], i["number"]) for i in listed] == [(5, 0), (3, 0)]
    with pytest.raises(UserError, match="seed: must be one or 2, got 3"):
        items(config(seed=[1, 2, 3]), ["x", "y"])


def test_a_file_has_one_prompt_a_line(tmp_path):
    path = tmp_path / "sunny days.txt"
    path.write_text("pizza\n\n  rocket  \n")
    assert read_prompts(config(prompts=str(path))) == ["pizza", "rocket"]
    path.write_text("\n")
    with pytest.raises(UserError, match=r"prompts: .* holds no prompt"):
        read_prompts(config(prompts=str(path)))


def test_images_without_prompts_are_counted():
    assert read_prompts(config(num_images=2)) == [None, None]
    with pytest.raises(UserError, match="num_images: must be at least 1, got 0"):
        read_prompts(config(num_images=0))


def test_whole_numbers_are_floats_where_the_nets_need_them():
    assert as_floats([1, 0.5, None, True]) == [1.0, 0.5, None, True]
    assert [type(v) for v in as_floats([1, True])] == [float, bool]
    assert as_floats(4) == 4.0
