"""Renders Noto Color Emoji with the names of Unicode CLDR into webdataset shards: the data that ldm embeds.

Needs the Debian packages fonts-noto-color-emoji, unicode-cldr-core and libfribidi0 (ZWJ sequences) and Pillow
with raqm. Run from the project's root: python experiments/emoji_shards/make_shards.py
"""

import argparse
import hashlib
import io
import json
import re
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
CLDR = "/usr/share/unicode/cldr/common"
SIZE, CANVAS = 64, 136
SHARD_BYTES = 4_000_000
ZWJ, PRESENTATION = 0x200D, "\ufe0f"
HAIR = {"red hair", "curly hair", "white hair", "bald"}


def annotations(cldr: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(characters, name, keywords) of everything that CLDR names in English."""
    for folder in ("annotations", "annotationsDerived"):
        keywords: dict[str, list[str]] = {}
        names: dict[str, str] = {}
        for node in ElementTree.parse(cldr / folder / "en.xml").iter("annotation"):
            text = node.text or ""
            if node.get("type") == "tts":
                names[node.get("cp", "")] = text
            else:
                keywords[node.get("cp", "")] = [word.strip() for word in text.split("|")]
        yield from ((cp, name, keywords.get(cp, [])) for cp, name in names.items())


def is_variant(codepoints: list[int], name: str) -> bool:
    """Whether this only repeats another image: skin tone, flag, gendered ZWJ sequence, keycap, clock face."""
    skin = any(0x1F3FB <= c <= 0x1F3FF for c in codepoints)
    flag = any(0x1F1E6 <= c <= 0x1F1FF or 0xE0020 <= c <= 0xE007F for c in codepoints)
    flag = flag or re.search(r"\bflags?$", name) is not None
    gendered = ZWJ in codepoints and (
        bool({0x2640, 0x2642} & set(codepoints)) or codepoints[0] in (0x1F468, 0x1F469)
    )
    keycap = 0x20E3 in codepoints or name.startswith("keycap")
    clock = 0x1F550 <= codepoints[0] <= 0x1F567
    text = len(codepoints) == 1 and codepoints[0] < 0x2000 and codepoints[0] not in (0xA9, 0xAE)
    return skin or flag or gendered or keycap or clock or text or name in HAIR


def render(characters: str, font: ImageFont.FreeTypeFont) -> np.ndarray | None:
    """RGBA image, uint8 (64, 64, 4), averaged with premultiplied alpha; None if the font lacks it."""
    if PRESENTATION not in characters and chr(ZWJ) not in characters:
        characters += PRESENTATION
    if not 100 < font.getlength(characters) < 150:
        return None
    canvas = Image.new("RGBA", (CANVAS, CANVAS))
    ImageDraw.Draw(canvas).text((0, 4), characters, font=font, embedded_color=True)
    pixels = np.asarray(canvas).astype(np.float32) / 255.0
    if pixels[..., 3].max() < 0.5:
        return None
    premultiplied = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)
    planes = [
        Image.fromarray(premultiplied[..., k]).resize((SIZE, SIZE), Image.Resampling.BOX) for k in range(4)
    ]
    small = np.stack([np.asarray(p) for p in planes], axis=-1)
    small[..., :3] /= np.maximum(small[..., 3:], 1e-4)
    return (small * 255.0).round().clip(0, 255).astype(np.uint8)


def samples(font: ImageFont.FreeTypeFont, cldr: Path) -> Iterator[dict[str, bytes]]:
    """The samples in CLDR's order: png, txt (name) and json of each; names and images are distinct."""
    seen: set[bytes | str] = set()
    for characters, name, keywords in annotations(cldr):
        codepoints = [ord(c) for c in characters]
        if name in seen or is_variant(codepoints, name):
            continue
        image = render(characters, font)
        if image is None or (digest := hashlib.sha256((image // 8).tobytes()).digest()) in seen:
            continue
        seen |= {name, digest}
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", optimize=True)
        about = {"name": name, "keywords": keywords, "codepoints": " ".join(f"{c:X}" for c in codepoints)}
        yield {"png": file.getvalue(), "txt": name.encode(), "json": json.dumps(about).encode()}


def write_shards(output: Path, rows: list[dict[str, bytes]]) -> None:
    """Writes the samples as emoji-0000.tar, ...; the same bytes for the same samples."""
    for old in output.glob("emoji-*.tar"):
        old.unlink()
    shards: list[list[tuple[str, bytes]]] = []
    size = SHARD_BYTES
    for i, row in enumerate(rows):
        padded = sum(512 + -(-len(data) // 512) * 512 for data in row.values())
        if size + padded > SHARD_BYTES - 10_240:
            shards.append([])
            size = 0
        size += padded
        shards[-1] += [(f"{i:04d}.{extension}", data) for extension, data in row.items()]
    for i, files in enumerate(shards):
        with tarfile.open(output / f"emoji-{i:04d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in files:
                info = tarfile.TarInfo(name)  # with time, owner and group 0
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def main() -> None:
    """Makes the shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", default=FONT)
    parser.add_argument("--cldr", type=Path, default=Path(CLDR))
    parser.add_argument("--output", type=Path, default=Path("src/ldm/data/assets"))
    arguments = parser.parse_args()
    if not features.check("raqm"):
        raise SystemExit("Pillow needs raqm and libfribidi0 for ZWJ sequences")
    font = ImageFont.truetype(arguments.font, 109, layout_engine=ImageFont.Layout.RAQM)
    rows = list(samples(font, arguments.cldr))
    write_shards(arguments.output, rows)
    print(f"{len(rows)} images in {arguments.output}")


if __name__ == "__main__":
    main()
