"""One line on a word of the command line that is no flag, key or option: what to write instead."""

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence

from ldm.cli.plain_keys import primary_keys
from ldm.cli.synonyms import NOTES, POSITIONAL, SYNONYMS
from ldm.utils.errors import UserError


def flag_advice(command: str, flag: str, value: str, flags: Iterable[str]) -> str:
    """The line on an unknown flag: options are flags elsewhere and keys here."""
    word = flag.lstrip("-").replace("-", "_")
    if "=" in value or value.startswith("-"):
        value = ""
    if word in primary_keys(command):
        return f"{flag}: write {word}={_shell(value)}"
    if (advice := synonym(command, word, value)) is not None:
        return f"{flag}: {advice}"
    near = _near(word, primary_keys(command)) or _near(flag, flags)
    return f"{flag}: no such flag{near or f'; ldm-{command} --help lists flags and keys'}"


def synonym(command: str, word: str, value: str) -> str | None:
    """The advice for a word that other programs use, None if the table has no such word."""
    found = SYNONYMS.get(command, {}).get(word)
    if found is None:
        return None
    if word.startswith("ema") and (factor := _forgetting(value)) is not None:
        found, value = found.replace("...", f"{factor}*BATCH"), ""
    note = f" ({NOTES[word]})" if word in NOTES and command in ("train", "plan") else ""
    return f"write {found.replace('...', _shell(value))}{note}"


def check_words(command: str, overrides: Sequence[str]) -> None:
    """Refuse words that are no overrides, and a number where a group takes the name of an option.

    Raises: UserError with what to write.
    """
    bare = [word for word in overrides if "=" not in word and not word.startswith("~")]
    if bare:
        keys = POSITIONAL.get(command, ())
        values = [*bare[: len(keys) - 1], " ".join(bare[len(keys) - 1 :])] if keys else []
        written = " ".join(f"{key}={_shell(value)}" for key, value in zip(keys, values, strict=False))
        raise UserError(f"{' '.join(bare)}: write {written or 'key=value'}")
    for word in overrides:
        key, _, value = word.partition("=")
        if command == "sample" and key == "timesteps" and re.fullmatch(r"\[[\d., -]+\]", value):
            count = value.count(",") + 1
            raise UserError(
                f"{word}: write timesteps=explicit timesteps.times={value} num_inference_steps={count}"
            )
        if key == "guidance" and re.fullmatch(r"[\d.]+", value):
            scale = "guidance_scale" if command == "sample" else "sampling.guidance_scale"
            raise UserError(f"{word}: write {scale}={value} (guidance= chooses the rule: guidance=cfg)")


def _near(word: str, options: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, options, 1, cutoff=0.75)
    return f"; did you mean {near[0]!r}?" if near else ""


def _forgetting(decay: str) -> int | None:
    """Steps over which an average with this decay forgets to 1/e, None if it is no decay."""
    try:
        number = float(decay)
    except ValueError:
        return None
    return round(1 / (1 - number)) if 0 < number < 1 else None


def _shell(value: str) -> str:
    """The value as a shell must be given it; "..." for none."""
    if not value:
        return "..."
    return f'"{value}"' if re.fullmatch(r"[\w ,.'!-]+", value) and " " in value else shlex.quote(value)
