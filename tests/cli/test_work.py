import pytest

from ldm.cli.work import items, read_prompts, request_of
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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_of_prompts_is_read_as_editors_write_it(encoding, end, tmp_path):
    path = tmp_path / "p.txt"
    prompts = ["naïve café", "one\u2028line\x0b\x1c\x85 of it", "it's 🎉, [a]"]
    path.write_bytes(end.join([*prompts, ""]).encode(encoding))
    assert read_prompts(config(prompts=str(path))) == prompts


def test_a_file_in_another_encoding_is_one_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("ok\ncafé\n".encode("latin-1"))
    with pytest.raises(
        UserError, match=r"^prompts: .*p\.txt is no UTF-8 text \(byte 0xe9 in line 2\); save it"
    ):
        read_prompts(config(prompts=str(path)))


def test_a_list_of_no_prompt_is_refused():
    with pytest.raises(UserError, match=r"^prompt: must be a text or a list of at least one text, got \[\]$"):
        read_prompts(config(prompt=[]))


def test_seeds_of_the_command_line_are_whole_numbers_of_64_bits():
    assert items(config(seed=2**64 - 1), ["x"])[0]["seed"] == 2**64 - 1
    with pytest.raises(UserError, match=r"^seed must be in \[0, 2\^64\), got -1$"):
        items(config(seed=[0, -1]), ["x", "y"])


def test_files_of_adapters_are_absolute_and_scales_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").touch()
    request = request_of({"lora": ["a", "owner/b"], "lora_scale": [1, 0.5], "guidance_scale": 4, "eta": None})
    assert request == {
        **{"lora": [str(tmp_path / "a"), "owner/b"], "lora_scale": [1.0, 0.5]},
        **{"guidance_scale": 4.0, "eta": None},
    }
