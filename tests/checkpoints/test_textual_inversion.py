"""Files of textual inversion: read without running anything, refused in a line that names the file."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.checkpoints.textual_inversion import inversion_files, read_words, save_words

TWO = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
ONE = TWO[:1]


def web_ui(vectors, **more):
    return {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "step": 500, **more}


def write(path, value):
    path.parent.mkdir(exist_ok=True)
    save_file(value, path) if path.suffix == ".safetensors" else torch.save(value, path)
    return path


@pytest.mark.parametrize(
    ("name", "contents", "expected"),
    [
        ("style.pt", web_ui(TWO, name="old name"), {"style": TWO, "old name": TWO}),
        ("style.pt", web_ui(TWO, name="*"), {"style": TWO}),
        ("style.pt", web_ui(torch.nn.Parameter(TWO), name="Style"), {"style": TWO}),
        ("style.pt", web_ui(ONE[0]), {"style": ONE}),
        ("style.safetensors", {"emb_params": TWO}, {"style": TWO}),
        ("learned_embeds.bin", {"<cat>": ONE[0]}, {"<cat>": ONE}),
        ("any.bin", {"<cat>": TWO}, {"<cat>": TWO}),
        ("any.safetensors", {"<cat>": TWO, "<dog>": ONE.half()}, {"<cat>": TWO, "<dog>": ONE}),
    ],
)
def test_words_are_read(name, contents, expected, tmp_path):
    found = read_words(write(tmp_path / name, contents))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[word], vectors) for word, vectors in expected.items())
    if len({id(v) for v in found.values()}) == 1:
        assert read_words(tmp_path / name, "new").keys() == {"new"}


def test_old_files_of_the_web_ui_hold_a_dict_of_parameters(tmp_path):
    """The class of torch, and archives from before torch 1.6."""
    held = torch.nn.ParameterDict({"*": torch.nn.Parameter(TWO)})
    write(tmp_path / "a.pt", {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": held})
    assert torch.equal(read_words(tmp_path / "a.pt")["a"], TWO)
    torch.save(web_ui(TWO), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_words(tmp_path / "b.pt")["b"], TWO)


def test_folders_are_of_diffusers_or_of_many_files(tmp_path):
    one = tmp_path / "one"
    for name, word in (("learned_embeds", "<a>"), ("learned_embeds-steps-500", "<b>")):
        write(one / f"{name}.safetensors", {word: ONE})
    assert read_words(one).keys() == {"<a>"}
    for name in ("x.pt", "y.pt"):
        write(tmp_path / "many" / name, web_ui(ONE))
    (tmp_path / "many" / "notes.txt").write_text("")
    assert read_words(tmp_path / "many").keys() == {"x", "y"}
    with pytest.raises(ValueError, match="a word can be chosen for one"):
        read_words(tmp_path / "many", "z")
    write(tmp_path / "many" / "z.bin", {"x": ONE})
    with pytest.raises(ValueError, match="word 'x' is in another file"):
        read_words(tmp_path / "many")
    (tmp_path / "none").mkdir()
    for path in (tmp_path / "none", tmp_path / "absent"):
        with pytest.raises(FileNotFoundError):
            inversion_files(path)


class Hostile:
    """Would print when unpickled."""

    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ({}, "no textual inversion"),
        ([ONE], "no textual inversion"),
        ({"state": {"<a>": ONE}}, "no textual inversion"),
        ({"<a>": torch.zeros(1, 1, 3)}, "no textual inversion"),
        ({"<a>": torch.tensor(1.0)}, "no textual inversion"),
        ({"clip_l": ONE, "clip_g": ONE}, "SDXL"),
        ({"unet.a.to_q.lora_A.weight": ONE}, "file of adapters"),
        (web_ui(ONE * torch.nan), "string_to_param holds NaN or infinite values in the file"),
        (web_ui(ONE.int()), "real numbers, got .* of int32"),
        (web_ui("text"), "got str"),
        ({"string_to_param": {"*": ONE, "b": ONE}}, "one word, got 2"),
        ({"string_to_param": {}}, "one word, got 0"),
        ({"<a>": ONE + 1j}, "real numbers"),
    ],
)
def test_other_files_are_refused(contents, says, tmp_path):
    path = write(tmp_path / "a.pt", contents)
    with pytest.raises(ValueError, match=says) as error:
        read_words(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    write(tmp_path / "a.pt", {**web_ui(ONE), "more": Hostile()})
    ((_, vectors),) = read_words(tmp_path / "a.pt").items()
    assert torch.equal(vectors, ONE)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x10\x00\x00\x00\x00\x00\x00\x00{broken"])
def test_damaged_files_are_named(content, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.(pt|safetensors)"):
        read_words(path)


def test_words_are_written_as_they_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_words(path, {"<cat>": TWO})
    assert torch.equal(load_file(path)["<cat>"], TWO)
    assert torch.equal(read_words(path)["<cat>"], TWO)
    with pytest.raises(ValueError, match=r"\.safetensors"):
        save_words(tmp_path / "a.pt", {"<cat>": TWO})
    with pytest.raises(ValueError, match="no learned word"):
        save_words(path, {})
