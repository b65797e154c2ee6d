"""Pieces of a self-contained HTML page: style, figures, tables, labelled pictures."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

STYLE = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1c2024; --soft: #60646c; --card: #f4f5f7;
  --line: #d9dbe0; --good: #1f7a45; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --bg: #15171a; --fg: #edeef0; --soft: #a0a4ab;
  --card: #202327; --line: #34383e; --good: #6cc58f; --bad: #f0857c; } }
body { font: 15px/1.5 system-ui, sans-serif; background: var(--bg); color: var(--fg); max-width: 1120px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin: 2.2rem 0 .6rem; }
.soft, figcaption, details { color: var(--soft); font-size: 13px; }
summary { cursor: pointer; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 1.2rem 0; }
.card { background: var(--card); border-radius: 10px; padding: 10px 18px; min-width: 110px; }
.card b { display: block; font-size: 24px; }
figure { margin: 0 0 12px; }
img { max-width: 100%; border-radius: 6px; background: #fff; }
.wide img { width: 100%; }
.labelled { display: grid; gap: 12px 10px; }
.cell > i { display: block; aspect-ratio: 1; border-radius: 6px; background-color: #fff; }
.cell { text-align: center; font-size: 12px; line-height: 1.3; color: var(--soft); }
.cell span { display: block; margin-top: 4px; }
.strip { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
.charts { display: grid; gap: 18px; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
table { border-collapse: collapse; margin-bottom: 12px; }
td, th { padding: 3px 18px 3px 0; text-align: left; border-bottom: 1px solid var(--line); }
.yes { color: var(--good); } .no { color: var(--bad); }
pre { background: var(--card); color: var(--fg); padding: 12px; border-radius: 8px; overflow-x: auto;
  font-size: 13px; } .command { user-select: all; }
svg { width: 100%; } svg text { fill: var(--soft); font-size: 12px; } svg .grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 1.8; } .raw { stroke: var(--soft); opacity: .4; stroke-width: 1; }
.s0 { stroke: #3b6ee0; } .s1 { stroke: #d9622b; } .s2 { stroke: #2e9e5b; }
""" + "".join(f".t{i} {{ stroke: hsl({220 + 20 * i} 62% {55 + i % 2 * 7}%); }}" for i in range(10))
# .t0 to .t9: blue over violet to orange, the order of the timestep bins


def encoded(path: Path) -> str:
    """A PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def names_in(path: Path) -> list[str]:
    """The prompts in a PNG's metadata, one per image of the grid; none if it has none or is not there."""
    if not path.is_file():
        return []
    with Image.open(path) as image:
        text = str(image.info.get("prompts", ""))
    return text.split("\n") if text else []


def picture(path: Path, caption: str = "") -> str:
    """A PNG as an inline figure; "" when there is none."""
    if not path.is_file():
        return ""
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    alt = html.escape(caption or path.stem)
    return f'<figure><img alt="{alt}" src="{encoded(path)}">{text}</figure>'


def columns_of(width: int, height: int, count: int, padding: int = 2) -> int | None:
    """Columns of a grid of so many square images with `padding` around each; None if it is none."""
    for columns in range(1, count + 1):
        rows = -(-count // columns)
        side = (width - padding) / columns
        if side * columns + padding == width and side * rows + padding == height and side == int(side):
            return columns
    return None


def labelled(path: Path, labels: Sequence[str] = (), cell: int = 128) -> str:
    """A grid of square images with the prompt below each; the plain picture if it does not say its prompts.

    Args:
        path: a PNG with "prompts" in its metadata.
        labels: HTML to put below the images instead of their prompts.
        cell: width of an image, in pixels, where there is room.
    """
    prompts = names_in(path)
    if not prompts:
        return picture(path)
    with Image.open(path) as image:
        width, height = image.size
    columns = columns_of(width, height, len(prompts))
    if columns is None or len(prompts) > 64:
        return picture(path) + _list(prompts)
    below = labels if len(labels) == len(prompts) else [html.escape(p) for p in prompts]
    side, cells = (width - 2) // columns, []
    for i, (prompt, label) in enumerate(zip(prompts, below, strict=True)):
        # a percentage places that part of the picture over the same part of the cell
        x, y = (
            100 * (k * side + 1) / max(whole - side, 1)
            for k, whole in zip(divmod(i, columns)[::-1], (width, height), strict=True)
        )
        place = f'style="background-position:{x:.3f}% {y:.3f}%"'
        tile = f'<i role=img aria-label="{html.escape(prompt)}" {place}></i>'
        cells.append(f"<div class=cell>{tile}<span>{label}</span></div>")
    size = f"{100 * width / side:.3f}% {100 * height / side:.3f}%"
    style = f".{path.stem} i{{background-image:url({encoded(path)});background-size:{size}}}"
    # as many columns as the picture has, fewer where they would be narrower than 80 pixels
    least = f"max(80px, (100% - {(columns - 1) * 10}px) / {columns} - .1px)"
    layout = (
        f"grid-template-columns:repeat(auto-fill,minmax({least},1fr));max-width:{columns * (cell + 10)}px"
    )
    body = "".join(cells)
    return f'<style>{style}</style><div class="labelled {path.stem}" style="{layout}">{body}</div>'


def _list(prompts: Sequence[str]) -> str:
    text = html.escape(" · ".join(prompts))
    return f"<details><summary>the {len(prompts):,} prompts, row by row</summary>{text}</details>"


def section(title: str, *parts: str) -> str:
    """A headed section; "" when all its parts are empty."""
    body = "".join(parts)
    return f"<h2>{html.escape(title)}</h2>{body}" if body else ""


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; "" without rows."""
    if not rows:
        return ""
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"
