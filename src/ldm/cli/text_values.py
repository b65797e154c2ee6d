"""Text in the grammar of Hydra's overrides, and lists of texts as people type them."""

import re

_QUOTED_ITEM = re.compile(r"""\s*(['"])((?:\\.|(?!\1)[^\\])*)\1\s*(?=,|\Z)""", re.DOTALL)


def quoted(text: str) -> str:
    """The value of an override that is this text and nothing else: quotes, `${` and backslashes escaped."""
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # for OmegaConf, which interpolates
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), plain) + "'"


def quoted_list(items: list[str | None]) -> str:
    """The value of an override that is a list of these texts; None is null."""
    return f"[{','.join('null' if item is None else quoted(item) for item in items)}]"


def as_list(value: str) -> list[str | None] | None:
    """The texts of a list such as `[red heart, "one, two", it's a cat]`; None for a value that is no list.

    The first bracket must close at the end, and no item may be empty but a quoted one. An item in quotes
    is what stands between them; another one is its characters without the space around them, and `null`
    is None. Items may hold brackets in pairs.
    """
    if len(value) < 2 or value[0] != "[" or value[-1] != "]":
        return None
    inner, items, start = value[1:-1], list[str | None](), 0
    if not inner.strip():
        return items
    while start <= len(inner):
        if match := _QUOTED_ITEM.match(inner, start):
            items.append(re.sub(r"\\([\\'\"])", r"\1", match[2]))
            end = match.end()
        else:
            end = _end_of_item(inner, start)
            text = inner[start:end].strip()
            if end < 0 or not text:
                return None
            items.append(None if text == "null" else text)
        start = end + 1
    return items


def _end_of_item(text: str, start: int) -> int:
    """Position of the comma or end that closes an item, -1 if its brackets are not in pairs."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "[") - (text[i] == "]")
        if depth < 0:
            return -1
        if text[i] == "," and depth == 0:
            return i
    return len(text) if depth == 0 else -1


def typed_list(items: list[str | None]) -> str:
    """A list as `as_list` reads it."""
    return f"[{','.join('null' if item is None else _double_quoted(item) for item in items)}]"


def _double_quoted(item: str) -> str:
    return '"' + re.sub(r"([\\\"])", r"\\\1", item) + '"'
