"""A folder of images: captions from text files, else from folders; every mistake names the file."""

import pytest
import torch
from PIL import Image

from ldm.data.imagefolder import ImageFolderData


def save(path, colour=(255, 0, 0), size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def load(root, **changes):
    return ImageFolderData(**{"root": str(root), "batch_size": 2, "image_size": 4, **changes})


def test_captions_are_texts_or_folders_in_the_order_of_paths(tmp_path):
    save(tmp_path / "zebra_finch" / "a.png", (0, 0, 255))
    save(tmp_path / "cat" / "b.JPG", (0, 255, 0))
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("größte Katze\n", encoding="utf-8")
    images, captions = load(tmp_path).held()
    assert captions == ["größte Katze", "a photo of a cat", "a photo of a zebra finch"]
    assert images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert images[2, :, 0, 0].tolist() == [0, 0, 255]


def test_a_text_beats_the_folder(tmp_path):
    save(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "a.txt").write_text("a sleeping cat")
    assert load(tmp_path).held()[1] == ["a sleeping cat"]


def test_images_are_cropped_in_the_middle_to_a_square(tmp_path):
    image = Image.new("RGB", (24, 8), (0, 0, 0))
    image.paste((255, 255, 255), (8, 0, 16, 8))
    (tmp_path / "wide").mkdir()
    image.save(tmp_path / "wide" / "a.png")
    images, _ = load(tmp_path, image_size=8).held()
    assert (images == 255).all()


def test_images_are_turned_as_their_camera_says(tmp_path):
    image = Image.new("RGB", (8, 8), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (tmp_path / "x").mkdir()
    image.save(tmp_path / "x" / "a.png", exif=exif)
    images, _ = load(tmp_path, image_size=8).held()
    assert images[0, 0, 0, 0] == 0
    assert images[0, 0, -1, 0] == 255


def test_grey_and_transparent_images_become_rgb(tmp_path):
    (tmp_path / "x").mkdir()
    Image.new("L", (4, 4), 7).save(tmp_path / "x" / "a.png")
    Image.new("P", (4, 4), 0).save(tmp_path / "x" / "b.png")
    assert load(tmp_path).held()[0].shape == (2, 3, 4, 4)
    assert load(tmp_path).held()[0].dtype == torch.uint8


def test_a_missing_or_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no folder at {tmp_path}/no"):
        load(tmp_path / "no").batch(0)
    with pytest.raises(FileNotFoundError, match=rf"no images below {tmp_path}, looked for "):
        load(tmp_path).batch(0)


def test_a_damaged_image_is_named(tmp_path):
    save(tmp_path / "x" / "a.png")
    (tmp_path / "x" / "b.png").write_bytes((tmp_path / "x" / "a.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=rf"{tmp_path}/x/b\.png cannot be read as an image"):
        load(tmp_path).batch(0)


def test_an_image_without_a_caption_is_named(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png has no caption: neither a\.txt nor a class folder"):
        load(tmp_path).batch(0)


def test_a_caption_in_no_encoding_of_unicode_is_named(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("café".encode("cp1252"))
    with pytest.raises(ValueError, match=r"a\.txt is no UTF-8 text \(byte 0xe9 in line 1\)"):
        load(tmp_path).batch(0)


def test_a_caption_as_editors_of_windows_write_it_is_read(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("café\n", encoding="utf-16")
    assert set(load(tmp_path).batch(0)["caption"]) == {"café"}


def test_captions_of_hugging_faces_imagefolder_are_read(tmp_path):
    for i in range(3):
        save(tmp_path / "train" / f"{i}.png")
    lines = [f'{{"file_name": "{i}.png", "text": "red {i}"}}' for i in range(4)]
    (tmp_path / "train" / "metadata.jsonl").write_text("\r\n".join(lines))
    assert load(tmp_path).held()[1] == ["red 0", "red 1", "red 2"]
    (tmp_path / "train" / "1.txt").write_text("blue")
    assert load(tmp_path).held()[1] == ["red 0", "blue", "red 2"]
    save(tmp_path / "train" / "4.png")
    with pytest.raises(ValueError, match=r"4\.png has no caption: neither 4\.txt nor one in the metadata"):
        load(tmp_path).held()
    save(tmp_path / "test" / "0.png")
    with pytest.raises(ValueError, match=r"holds the splits test, train: choose one"):
        load(tmp_path).held()


def test_a_split_is_no_class(tmp_path):
    save(tmp_path / "train" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png has no caption: neither a\.txt nor a class folder"):
        load(tmp_path).held()
    (tmp_path / "train" / "a.png").unlink()
    save(tmp_path / "train" / "cat" / "a.png")
    assert load(tmp_path).held()[1] == ["a photo of a cat"]


def test_hidden_files_are_left_out_and_linked_folders_read(tmp_path):
    save(tmp_path / "root" / "cat" / "a.png")
    save(tmp_path / "root" / ".ipynb_checkpoints" / "a-checkpoint.png")
    (tmp_path / "root" / "cat" / "._a.png").write_bytes(b"\0\5\x16\7" + bytes(80))
    save(tmp_path / "dogs" / "b.gif")
    (tmp_path / "root" / "dog").symlink_to(tmp_path / "dogs")
    (tmp_path / "dogs" / "up").symlink_to(tmp_path / "root")
    assert load(tmp_path / "root").held()[1] == ["a photo of a cat", "a photo of a dog"]


def test_images_that_are_not_read_are_counted(tmp_path, caplog):
    save(tmp_path / "x" / "a.png")
    (tmp_path / "x" / "b.HEIC").write_bytes(b"x")
    load(tmp_path).held()
    assert "1 images are not read, such as" in caplog.text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.heic", r"found 1 of \.heic, such as a\.heic: set data\.root"),
        ("a.parquet", r"ldm-data hf dataset=.* reads such a dataset"),
        ("a.tar", r"tar shards are read by data=laion"),
    ],
)
def test_a_folder_without_images_says_what_is_there(name, says, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=says):
        load(tmp_path).held()
