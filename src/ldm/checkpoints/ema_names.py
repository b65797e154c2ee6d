"""Names of the EMA weights in original files, which have no dots, and the parameters that they belong to."""

import re
from functools import cache

from ldm.checkpoints.keymaps import ORIGINAL, PREFIXES, UNET

PREFIX = "model_ema."
NET = PREFIXES["backbone"]


def ema_name(name: str) -> str:
    """The name of the EMA weight of a parameter, without the prefix."""
    return name.removeprefix("model.").replace(".", "")


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """The names of the U-Net's layers without dots, with the names that they come from."""
    found = []
    for row in UNET:
        plain = re.escape(row[ORIGINAL].replace(".", "")).replace(r"\{", "{").replace(r"\}", "}")
        fields = re.sub(
            r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{'[12]' if m[1] == 'place' else '[0-9]+'})", plain
        )
        found.append((re.compile(rf"diffusion_model{fields}(?P<suffix>weight|bias)"), row[ORIGINAL]))
    return found


def parameter_name(name: str) -> str | None:
    """The parameter of the U-Net that an EMA weight belongs to; None if there is no such one.

    Args:
        name: of the EMA weight, without the prefix.
    """
    for pattern, layer in _patterns():
        if match := pattern.fullmatch(name.replace(".", "")):
            return f"{NET}{layer.format(**match.groupdict())}.{match['suffix']}"
    return None
