"""Emoji: what is embedded, what a caption says of its picture, and what is never trained on."""

import io
import json
import re
import tarfile

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ldm.data.emoji import ASSETS, EmojiData, compose, load_emoji, read_names

BACKGROUNDS = {"red": [200, 40, 50], "blue": [60, 110, 210], "black": [20, 20, 20]}
HELD_OUT = ["purple square", "green heart", "brown heart", "brown circle"]
PROMPTS = {
    "red heart",
    "blue heart",
    "grinning face",
    "smiling face with sunglasses",
    "orange circle",
    "green square",
    "pizza",
    "rocket",
    "red apple",
    "soccer ball",
    "cat face",
    "dog face",
    "sunflower",
    "strawberry",
    "rainbow",
    "penguin",
}
RECORDED_PAIRS = [(3, 1), (5, 1), (5, 3), (10, 1), (20, 2), (21, 2)]


def coloured(**changes):
    arguments = {
        "batch_size": 64, "image_size": 16, "subset": "demo", "backgrounds": BACKGROUNDS,
        "background_probability": 0.6, "held_out_pairs": 0.2, "seed": 5,
    }  # fmt: skip
    return EmojiData(**{**arguments, **changes})


def epochs(data, n):
    for step in range(n * data.steps_per_epoch):
        yield data.batch(step)


@pytest.fixture(scope="module")
def emoji():
    return load_emoji()


def test_there_are_as_many_captions_as_pictures_and_none_twice(emoji):
    assert len(emoji.names) >= 1346
    assert len(set(emoji.names)) == len(emoji.names)
    pixels = torch.cat([emoji.colour, emoji.opacity], dim=1).flatten(1)
    assert len({row.numpy().tobytes() for row in pixels}) == len(emoji.names)


def test_no_emoji_is_blank_or_a_left_out_variant(emoji):
    assert (emoji.opacity > 127).flatten(1).sum(1).min() >= 100
    words = re.compile(r"skin tone|^flag:|keycap|o.clock|-thirty|^(red|curly|white) hair$|^(wo)?man: ")
    assert [name for name in emoji.names if words.search(name)] == []


def test_colours_are_premultiplied(emoji):
    assert (emoji.colour.float() <= emoji.opacity.float() + 0.5).all()


def test_shards_are_small_and_hold_name_keywords_and_codepoints():
    index = 0
    for path in sorted(ASSETS.glob("emoji-*.tar")):
        assert path.stat().st_size <= 4_000_000
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for member in members:
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
            for first in range(0, len(members), 3):
                names = [m.name for m in members[first : first + 3]]
                assert names == [f"{index:04d}.{extension}" for extension in ("png", "txt", "json")]
                index += 1
            about = json.loads(tar.extractfile(members[2]).read())
            assert about["name"] == tar.extractfile(members[1]).read().decode()
            assert about["keywords"]
            assert all(int(code, 16) > 0 for code in about["codepoints"].split())
            image = Image.open(io.BytesIO(tar.extractfile(members[0]).read()))
            assert (image.size, image.mode) == ((64, 64), "RGBA")
    assert index == len(load_emoji().names)


def test_licences_stand_beside_the_shards():
    notice = (ASSETS / "NOTICE").read_text()
    for name in re.findall(r"LICENSE-[\w.-]*\w", notice):
        assert (ASSETS / name).stat().st_size > 1000
    assert {"LICENSE-Apache-2.0", "LICENSE-OFL-1.1", "LICENSE-Unicode-DFS-2016"} <= set(
        re.findall(r"LICENSE-[\w.-]*\w", notice)
    )


def test_the_demo_has_130_emoji_all_prompts_and_at_most_a_quarter_hearts_and_shapes(emoji):
    names = read_names("demo")
    assert len(names) == len(set(names)) >= 130
    assert set(names) <= set(emoji.names)
    assert set(names) >= PROMPTS
    shapes = [n for n in names if re.search(r"\b(heart|circle|square|diamond|triangle)$", n)]
    assert len(shapes) <= len(names) / 4


def test_captions_held_out_of_the_demo_share_their_words_with_trained_ones(emoji):
    data = EmojiData(batch_size=8, image_size=16, subset="demo", hold_out=HELD_OUT)
    trained = [name for _, name in data.training_captions()]
    assert not set(HELD_OUT) & set(trained)
    assert set(HELD_OUT) <= set(data.reference_captions())
    for caption in HELD_OUT:
        colour, shape = caption.split()
        assert any(name.startswith(colour + " ") for name in trained)
        assert sum(name.endswith(" " + shape) for name in trained) >= 5


def test_hold_out_takes_trained_captions_away():
    data = EmojiData(batch_size=8, image_size=16, subset="demo", hold_out=["pizza", "rocket"])
    assert len(data.training_captions()) == len(read_names("demo")) - 2
    assert not {"pizza", "rocket"} & {c for b in epochs(data, 2) for c in b["caption"]}


def test_without_backgrounds_the_caption_is_the_name_and_the_image_stands_on_white():
    data = EmojiData(batch_size=32, image_size=64)
    references, names = data.reference_images(), data.reference_captions()
    batch = data.batch(0)
    assert batch["caption"] == [names[k] for k in batch["key"].tolist()]
    assert torch.equal(((batch["image"] + 1.0) * 127.5).round().byte(), references[batch["key"]])
    assert (references[:, :, 0, 0] == 255).float().mean() > 0.8


def test_the_caption_names_the_background_that_the_image_has():
    data = coloured(image_size=64, subset=None, background_probability=1.0)
    emoji = load_emoji()
    for batch in (data.batch(0), data.batch(30)):
        for image, caption, key in zip(batch["image"], batch["caption"], batch["key"].tolist(), strict=True):
            name, _, colour = caption.partition(" on a ")
            assert name == emoji.names[key]
            rgb = BACKGROUNDS[colour.removesuffix(" background")] if colour else [255, 255, 255]
            clear = emoji.opacity[key, 0] == 0
            pixels = ((image + 1.0) * 127.5).round()
            assert torch.equal(
                pixels[:, clear], torch.tensor(rgb).float()[:, None].expand(3, int(clear.sum()))
            )


def test_composing_is_pillows_alpha_composition():
    data, emoji = coloured(image_size=64), load_emoji()
    key = torch.tensor([0, 300, 700, 1100])
    rendered = ((data.render(key, torch.tensor([0, 1, 2, 3])) + 1.0) * 127.5).round()
    for image, k, rgb in zip(rendered, key.tolist(), [[255] * 3, *BACKGROUNDS.values()], strict=True):
        opacity = emoji.opacity[k].float()
        straight = (emoji.colour[k].float() * 255.0 / opacity.clamp(min=1.0)).round().clamp(max=255.0)
        pixels = torch.cat([straight, opacity]).byte().movedim(0, -1).numpy()
        base = Image.new("RGBA", (64, 64), (*rgb, 255))
        base.alpha_composite(Image.fromarray(pixels))
        peer = torch.tensor(list(base.convert("RGB").tobytes())).view(64, 64, 3).movedim(-1, 0)
        assert (image - peer).abs().max() <= 2.0


def test_smaller_images_are_means_of_the_composed_ones():
    """Averaging premultiplied colour and opacity commutes with composing: no dark or light fringes."""
    large, small = coloured(image_size=64), coloured(image_size=16)
    key, colour = torch.arange(0, 1300, 50), torch.arange(26) % 4
    mean = F.avg_pool2d(large.render(key, colour), 4)
    assert (small.render(key, colour) - mean).abs().max() <= 1.1 * 2.0 / 255.0


def test_composed_pixels_stay_in_range():
    opacity = torch.full((1, 1, 1, 1), 128, dtype=torch.uint8)
    white = compose(opacity.expand(1, 3, 1, 1), opacity, torch.full((1, 3), 255.0))
    torch.testing.assert_close(white, torch.ones(1, 3, 1, 1))


def test_held_out_pairs_are_never_trained_on():
    data = coloured()
    forbidden = {data.caption(*pair) for pair in data.held_out_pair_list()}
    seen = {caption for batch in epochs(data, 60) for caption in batch["caption"]}
    assert len(forbidden) == pytest.approx(0.2 * 3 * 131, rel=0.3)
    assert not forbidden & seen
    possible = {data.caption(k, c) for k, _ in data.training_captions() for c in range(4)}
    assert len(seen) > 0.98 * len(possible - forbidden)


def test_white_is_never_held_out_and_the_split_does_not_depend_on_the_subset():
    data, everything = coloured(held_out_pairs=1.0), coloured(subset=None)
    keys = torch.tensor([k for k, _ in data.training_captions()])
    assert not data.is_held_out(keys, torch.zeros_like(keys)).any()
    assert data.is_held_out(keys, torch.ones_like(keys)).all()
    assert set(coloured().held_out_pair_list()) <= set(everything.held_out_pair_list())


def test_recorded_held_out_pairs_do_not_change():
    """Trained models were scored on them."""
    data = coloured(held_out_pairs=0.1, seed=0, subset=None)
    assert data.held_out_pair_list()[:6] == RECORDED_PAIRS


def test_backgrounds_are_drawn_by_key_and_visit_as_often_as_asked():
    data = coloured(held_out_pairs=0.0)
    key = torch.arange(1346)
    colours = torch.stack([data.background(key, visit) for visit in range(40)])
    share = colours.flatten().bincount(minlength=4).float() / colours.numel()
    torch.testing.assert_close(share, torch.tensor([0.4, 0.2, 0.2, 0.2]), atol=0.01, rtol=0.0)
    assert torch.equal(colours[7, 100:110], data.background(key[100:110], 7))
    assert not torch.equal(colours[0], coloured(seed=6, held_out_pairs=0.0).background(key, 0))


def test_captions_have_every_word_of_training():
    data = coloured(hold_out=HELD_OUT)
    words = set(" ".join(data.captions()).split())
    seen = {word for batch in epochs(data, 4) for caption in batch["caption"] for word in caption.split()}
    assert seen == words


def test_validation_emoji_are_never_trained_on():
    data = EmojiData(batch_size=32, image_size=16, validation_fraction=0.1)
    assert 90 < len(data.validation_images()) < 180
    assert len(data.validation_images()) + len(data.training_keys()) == len(data.names)
    held = set(data._validation.tolist())
    assert not held & {k for batch in epochs(data, 2) for k in batch["key"].tolist()}


def test_retrieval_always_looks_among_all_emoji():
    data = EmojiData(batch_size=8, image_size=32, subset="demo")
    assert data.reference_images().shape == (len(load_emoji().names), 3, 32, 32)
    assert [data.reference_captions()[i] for i, _ in data.training_captions()] == [
        name for _, name in data.training_captions()
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 48}, r"image_size must be 16, 32 or 64, got 48"),
        ({"subset": "demos"}, r"subset must be null or one of \['demo'\], got 'demos'"),
        ({"hold_out": ["purple pizza"]}, "no emoji is called 'purple pizza'"),
        ({"backgrounds": {}}, r"background_probability=0\.6 needs backgrounds, got none"),
        ({"backgrounds": {"red": [1, 2]}}, r"\[1, 2\]"),
        ({"backgrounds": {"red": [1, 2, 256]}}, r"\[1, 2, 256\]"),
        ({"background_probability": 1.5}, r"got 1\.5"),
        ({"held_out_pairs": -0.1}, r"got -0\.1"),
        ({"validation_fraction": 2.0}, r"got 2\.0"),
        ({"validation_fraction": 1.0}, r"validation_fraction=1\.0 leave no emoji to train on"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        coloured(**changes)
