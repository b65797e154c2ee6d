"""Files of a folder: clutter is left out, links are followed, and each folder is read once."""

import pytest

from ldm.utils.folders import files_below, is_clutter


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def below(root):
    return [str(path.relative_to(root)) for path in files_below(root)]


def test_what_desktops_and_editors_leave_behind_is_left_out(tmp_path):
    touch(tmp_path, "b/a.jpg", "a.jpg", "b/._a.jpg", ".ipynb_checkpoints/a.jpg", "b/.hidden/c/a.jpg")
    touch(tmp_path, "__MACOSX/b/a.jpg", "Thumbs.db", "b/desktop.ini", "b/@eaDir/a.jpg", ".DS_Store")
    assert below(tmp_path) == ["a.jpg", "b/a.jpg"]


def test_a_hidden_folder_above_the_data_hides_nothing(tmp_path):
    touch(tmp_path / ".cache", "a.jpg")
    assert below(tmp_path / ".cache") == ["a.jpg"]


@pytest.mark.parametrize(
    ("name", "clutter"),
    [
        ("./0.jpg", False),
        ("a/../0.jpg", False),
        ("a/._0.jpg", True),
        ("__MACOSX/0.jpg", True),
        ("a.b/0", False),
    ],
)
def test_names_in_archives_are_judged_as_files_are(name, clutter):
    assert is_clutter(name) == clutter


def test_linked_folders_are_read_once_and_circles_end(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    touch(root, "cat/0.jpg", "z.jpg")
    touch(elsewhere, "1.jpg", "deep/2.jpg")
    (root / "dog").symlink_to(elsewhere)
    (root / "same_dog").symlink_to(elsewhere)
    (root / "a_cat").symlink_to(root / "cat")
    (root / "cat" / "up").symlink_to(root)
    (elsewhere / "back").symlink_to(root)
    (root / "linked.jpg").symlink_to(root / "z.jpg")
    (root / "nowhere").symlink_to(tmp_path / "nothing")
    assert below(root) == ["cat/0.jpg", "dog/1.jpg", "dog/deep/2.jpg", "linked.jpg", "nowhere", "z.jpg"]
