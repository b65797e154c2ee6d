"""Text files as editors write them: UTF-8, with or without a mark, or UTF-16 or UTF-32 with one."""

import codecs
import re
from pathlib import Path

from ldm.utils.errors import UserError

# Longer marks first: that of UTF-32 starts with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """The text of a file, without its byte order mark.

    Raises: OSError; UserError for a file in another encoding or with binary data.
    """
    return decoded_text(path.read_bytes(), str(path))


def decoded_text(data: bytes, name: str) -> str:
    """The text of the bytes of a file, without its byte order mark.

    Other encodings have no mark: a guess between them would turn letters into other letters.

    Args:
        data: the bytes.
        name: of the file, for messages.

    Raises: UserError for another encoding or binary data.
    """
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1
        where = f"byte 0x{data[error.start]:02x} in line {line}" if encoding == "utf-8" else "broken"
        raise UserError(f"{name} is no {encoding.upper()} text ({where}); save it as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{name} is no text: it holds a zero byte; save it as UTF-8")
    return text


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, which end at \n, \r\n or \r and at nothing else."""
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def caption_of(data: bytes, name: str) -> str:
    r"""The caption that a text file holds: its text without white space around it, lines separated by \n.

    Args:
        data: bytes of the file.
        name: of the file, for messages.

    Raises: UserError for another encoding than `decoded_text` reads.
    """
    return "\n".join(lines_of(decoded_text(data, name))).strip()
