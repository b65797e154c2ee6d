"""The kind of a file of weights by its first bytes: the suffixes of downloads are often wrong."""

import zipfile
from pathlib import Path

from ldm.utils.errors import UserError

SAFETENSORS, TORCH = "safetensors", "torch"
HEAD = 512  # bytes that are looked at
LONGEST_HEADER = 10**8  # bytes, as the safetensors library allows

# First bytes of what is neither of the two.
PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
OTHERS = {
    b"GGUF": "weights in the GGUF format",
    b"\x89HDF": "an HDF5 file (Keras)",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"RIFF": "a WebP image or sound",
    b"%PDF": "a PDF document",
}
BLANK = b"\xef\xbb\xbf \t\r\n"
PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")


def kind_of(path: Path) -> str:
    """Kind of a file of tensors, `SAFETENSORS` or `TORCH`; the suffix decides only where the bytes do not.

    Raises: ValueError naming the content of a file that is neither.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise UserError(f"{path} is empty")
    if foreign := _foreign(head):
        raise UserError(f"{path} is {foreign}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER:
        return SAFETENSORS
    if head.startswith(b"PK"):
        _check_zip(path)
        return TORCH
    if head.startswith(b"\x80"):  # a pickle, as torch wrote it before 1.6
        return TORCH
    return SAFETENSORS if path.suffix == ".safetensors" else TORCH


def stand_in(head: bytes) -> str | None:
    """Content of a file that stands in for another or wraps it, with the remedy; None for other files.

    Args:
        head: its first bytes.
    """
    text = head.lstrip(BLANK)
    if text.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file itself: fetch it with `git lfs pull`"
    if text.lower().startswith(PAGES):
        return "a web page (HTML): download the file again, logged in if the site asks for it"
    if packed := next((name for magic, name in PACKED.items() if head.startswith(magic)), None):
        return f"packed with {packed}: unpack it first"
    return None


def _foreign(head: bytes) -> str | None:
    """Content of a file that holds no weights that can be read, with the remedy; None for other files."""
    if found := stand_in(head):
        return found
    text = head.lstrip(BLANK)
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if other := next((name for magic, name in OTHERS.items() if head.startswith(magic)), None):
        return f"{other}, not a safetensors file or a checkpoint of torch"
    if not head.strip(b"\0") and len(head) > 8:
        return "full of zeros: the download was broken off"
    return _text(text)


def _text(head: bytes) -> str | None:
    """Description of a file of plain text, such as the error message of a server; None for other files."""
    if head.startswith((b"(", b"c", b"]")) and b"\n." in head:  # a pickle of protocol 0 is printable
        return None
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < HEAD // 2 else "ignore")
    except UnicodeDecodeError:
        return None
    if len(text) < 9 or not all(c.isprintable() or c.isspace() for c in text):
        return None
    kind = "JSON" if text.startswith(("{", "[")) else "text"
    return f"{kind}, not weights: {text.splitlines()[0][:60]!r}"


def _check_zip(path: Path) -> None:
    """Raises ValueError for a zip archive that torch did not write; a broken one is left to torch."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if not any(name.endswith("data.pkl") for name in names):
        raise UserError(f"{path} is a zip archive of {', '.join(names[:3]) or 'nothing'}: unpack it first")
    if any(name.endswith("constants.pkl") for name in names):
        raise UserError(f"{path} is a program of TorchScript, which is not run: give a file of weights")
