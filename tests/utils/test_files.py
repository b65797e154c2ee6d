"""Files appear whole or not at all."""

import os

import pytest

from ldm.utils.files import replacing, replacing_folder, write_text


def test_a_file_appears_whole_and_alone(tmp_path):
    write_text(tmp_path / "a.txt", "größer\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "größer\n"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_file_is_not_there_before_the_end(tmp_path):
    with replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"1")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"1"


def test_the_file_has_the_mode_that_the_umask_allows(tmp_path):
    """The safetensors library, for one, makes its files private."""
    with replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"1")
        temporary.chmod(0o600)
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old")

    def interrupted():
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_missing_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_text(tmp_path / "nowhere" / "a", "x")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with replacing_folder(tmp_path / "new") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text("a")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "inner" / "a.txt").read_text() == "a"
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "other") as folder:
        (folder / "b.txt").write_text(str(1 / 0))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_only_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    with replacing_folder(tmp_path / "empty") as folder:
        (folder / "a.txt").write_text("a")
    for name in ("empty", "empty/a.txt"):
        with pytest.raises(FileExistsError, match="exists"), replacing_folder(tmp_path / name):
            pass
    assert (tmp_path / "empty" / "a.txt").read_text() == "a"
