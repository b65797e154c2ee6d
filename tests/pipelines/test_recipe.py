import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.pipelines.recipe import (
    check_digests,
    digest,
    digests,
    read_recipe,
    recipe,
    request_in,
    save_with_recipe,
)
from ldm.utils.errors import UserError

REQUEST = {"kind": "text2img", "checkpoint": None, "eta": 0.5, "prompt_weights": True, "long_prompts": "cut"}
BATCH = [
    {"prompt": p, "negative_prompt": None, "seed": 3, "number": i} for i, p in enumerate(("a cat", "a dog"))
]


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path):
    (tmp_path / "a.bin").write_bytes(b"weights")
    assert digest(tmp_path / "a.bin") == hashlib.sha256(b"weights").hexdigest()


def test_the_digest_of_a_folder_is_that_of_its_weights_and_their_names(tmp_path: Path):
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "a.safetensors").write_bytes(b"weights")
    first = digest(folder)
    (folder / "README.md").write_text("no weights")
    assert digest(folder) == first
    (folder / "unet" / "a.safetensors").rename(folder / "unet" / "b.safetensors")
    assert digest(folder) != first


def test_everything_that_a_request_reads_has_a_digest(tmp_path: Path):
    for name in ("model", "image", "lora"):
        (tmp_path / name).write_bytes(name.encode())
    request = {"image": str(tmp_path / "image"), "lora": str(tmp_path / "lora"), "mask": None}
    found = digests(request | {"weak_checkpoint": "owner/name"}, tmp_path / "model")  # on the hub
    expected = {"checkpoint": "model", "image": "image", "lora": "lora"}
    assert found == {key: hashlib.sha256(text.encode()).hexdigest() for key, text in expected.items()}


def test_several_files_have_the_digest_of_their_digests(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    a, b = (str(tmp_path / name) for name in ("a", "b"))
    assert digests({"lora": [a]}, tmp_path / "none") == digests({"lora": a}, tmp_path / "none")
    assert len({digests({"lora": files}, tmp_path)["lora"] for files in ([a], [a, b], [b, a])}) == 3
    assert digests({"lora": [a, "/no/such"]}, tmp_path / "none") == {}


@pytest.mark.parametrize("found", [{}, {"image": "2"}])
def test_a_file_that_has_changed_is_named(found: dict[str, str]):
    check_digests({"image": "1", "more": "2"}, {"image": "1"})
    line = "^image: the image is missing or has changed since .*; if it has moved, give image=PATH$"
    with pytest.raises(UserError, match=line):
        check_digests(found, {"image": "1"})


def test_a_recipe_gives_back_request_and_batch():
    made = recipe(REQUEST, {"checkpoint": "1"}, BATCH, 1, 2)
    assert (made["prompt"], made["number"], made["scale"]) == ("a dog", 1, 2)
    assert request_in(made) == (REQUEST, BATCH, 1)


def test_an_old_recipe_without_rules_for_its_prompt_is_read_as_text():
    made = recipe({"kind": "text2img"}, {}, BATCH[1:], 0, 1)
    assert request_in(made)[0] == {"kind": "text2img", "prompt_weights": False, "long_prompts": "cut"}


def test_the_digest_of_adapters_is_also_that_of_their_settings(tmp_path: Path):
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(b"weights")
    alone = digest(file), digest(tmp_path)
    for alpha in ("1", "2"):
        (tmp_path / "adapter_config.json").write_text(alpha)
        assert not {digest(file), digest(tmp_path)} & set(alone)
        alone = digest(file), digest(tmp_path)


def test_an_image_alone_has_no_batch_in_its_recipe():
    made = recipe(REQUEST, {}, BATCH[:1], 0, 1)
    assert not {"batch", "index"} & made.keys()
    assert request_in(made) == (REQUEST, BATCH[:1], 0)


def test_a_recipe_of_other_random_draws_is_refused():
    made = recipe(REQUEST, {}, BATCH[1:], 0, 1)
    for changed in ({"draws": 3}, {"draws": 1}):
        with pytest.raises(UserError, match=f"of version {changed['draws']}, this release has 2"):
            request_in(made | changed)
    del made["draws"]
    with pytest.raises(UserError, match="of version 1"):
        request_in(made)


def test_the_picture_is_enlarged_and_carries_its_recipe(tmp_path: Path):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    image.info["net_evaluations"] = 8
    made, path = recipe(REQUEST, {}, BATCH, 0, 3), tmp_path / "new" / "a.png"
    save_with_recipe(image, path, made)
    assert read_recipe(path) == made | {"net_evaluations": 8}
    with Image.open(path) as written:
        assert written.size == (6, 6)
        assert np.array_equal(np.asarray(written)[::3, ::3], np.asarray(image))


def test_a_file_without_a_recipe_is_named(tmp_path: Path):
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no image")
    for name, line in (("plain", "holds no recipe"), ("text", "cannot be read"), ("none", "no image at")):
        with pytest.raises(UserError, match=line):
            read_recipe(tmp_path / f"{name}.png")


@pytest.mark.parametrize(
    "change",
    [
        *({name: ...} for name in ("negative_prompt", "number", "checkpoint")),
        {"sha256": []},
        {"batch": [{}]},
        {"batch": []},
        {"batch": 3},
        {"index": 1},
        {"index": "0"},
    ],
)
def test_a_recipe_that_is_not_whole_is_named(change: dict[str, object], tmp_path: Path):
    image = Image.new("RGB", (2, 2))
    image.info["net_evaluations"] = 8
    whole = recipe(REQUEST, {}, BATCH[:1], 0, 1) | change
    edited = {name: value for name, value in whole.items() if value is not ...}
    save_with_recipe(image, tmp_path / "a.png", edited)
    with pytest.raises(UserError, match="holds a recipe of ldm-sample that is not whole"):
        read_recipe(tmp_path / "a.png")
