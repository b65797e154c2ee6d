"""From our parameter names to those of other formats, by the tables of `keymaps`."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from ldm.checkpoints import keymaps
from ldm.checkpoints.keymaps import DIFFUSERS, ORIGINAL, OURS, Row
from ldm.utils.errors import UserError

TABLES: Mapping[str, tuple[Row, ...]] = {
    "backbone": keymaps.UNET,
    "autoencoder": keymaps.VAE,
    "text_encoder": keymaps.TEXT,
}
PART = {"c": "encoder|decoder"}


def _pattern(name: str) -> re.Pattern[str]:
    """Matches a name of ours with its numbers and what follows the layer's name."""
    escaped = re.escape(name).replace(r"\{", "{").replace(r"\}", "}")
    fields = re.sub(r"\{(\w)\}", lambda m: f"(?P<{m[1]}>{PART.get(m[1], '[0-9]+')})", escaped)
    return re.compile(fields + r"(?P<suffix>\.weight|\.bias|)")


@cache
def _patterns(component: str) -> list[tuple[re.Pattern[str], Row]]:
    """The rows of a component's table with what matches our names."""
    return [(_pattern(row[OURS]), row) for row in TABLES[component]]


def _numbers(match: re.Match[str], node: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a row's names: those found in our name and those computed from them."""
    found = match.groupdict()
    fields: dict[str, Any] = {k: v if k in PART else int(v) for k, v in found.items() if k != "suffix"}
    if "i" in fields and "channels" in node:
        i, j, layers, levels = (
            fields["i"],
            fields.get("j", 0),
            node["layers_per_block"],
            len(node["channels"]),
        )
        attention = node.get("attention", ())
        fields |= {
            "entry": 1 + i * (layers + 1) + j,
            "halved": (i + 1) * (layers + 1),
            "exit": i * (layers + 1) + j,
            "last": i * (layers + 1) + layers,
            "place": 2 if attention and attention[levels - 1 - i] != "none" else 1,
            "r": levels - 1 - i,
        }
    return fields


def theirs(
    component: str, node: Mapping[str, Any], keys: Iterable[str], column: int
) -> dict[str, tuple[str, ...]]:
    """Names of a component's tensors in another format.

    Args:
        component: "backbone", "autoencoder" or "text_encoder".
        node: its config: `channels`, `layers_per_block`, `attention`.
        keys: names of ours.
        column: `DIFFUSERS` or `ORIGINAL`.

    Returns: for each of our names theirs; three, to be put one behind the other, where query, key and value
        are apart there.
    Raises: ValueError for a name that has no place in the other format.
    """
    names = {}
    for key in keys:
        for pattern, row in _patterns(component):
            if match := pattern.fullmatch(key):
                name = row[column] + match["suffix"]
                fields = _numbers(match, node)
                parts = "qkv" if "{qkv}" in name else " "
                names[key] = tuple(name.format(**fields, qkv=part) for part in parts)
                break
        else:
            raise UserError(
                f"{key} of the {component} has no place in a Stable Diffusion checkpoint: only nets in its "
                f"topology with a CLIP text encoder have one"
            )
    return names


def original_column(quick_gelu: bool) -> tuple[int, str]:
    """Column and prefix of the text tower in a single file: 1.x (QuickGELU) or 2.x."""
    prefixes = keymaps.PREFIXES
    return (DIFFUSERS, prefixes["text_encoder_1"]) if quick_gelu else (ORIGINAL, prefixes["text_encoder_2"])


def in_single_file(
    component: str, node: Mapping[str, Any], keys: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """The names of a component's tensors in an original single file; args and errors as in `theirs`."""
    column, prefix = ORIGINAL, keymaps.PREFIXES.get(component, "")
    if component == "text_encoder":
        column, prefix = original_column(node["quick_gelu"])
    return {
        key: tuple(prefix + name for name in names)
        for key, names in theirs(component, node, keys, column).items()
    }


def unused(name: str) -> bool:
    """True for a tensor of a single file that belongs to no component."""
    return any(re.fullmatch(pattern, name) for pattern in keymaps.UNUSED)


def vae_attention_name(name: str, column: int) -> str:
    """The usual name of a tensor of an autoencoder's attention, whichever a converter gave it.

    Args:
        name: in a file.
        column: `DIFFUSERS` or `ORIGINAL`, whose name is returned.
    """
    match = re.fullmatch(r"(.*(?:\.attentions\.\d+|\.attn_1)\.)(.+)(\.weight|\.bias)", name)
    if match is None:
        return name
    place, layer, suffix = match.groups()
    for spelling in keymaps.VAE_ATTENTION_NAMES:
        layer = spelling.get(layer, layer)
    if column == ORIGINAL:
        layer = {row[DIFFUSERS]: row[ORIGINAL] for row in keymaps.VAE_ATTENTION}.get(layer, layer)
    return f"{place}{layer}{suffix}"
