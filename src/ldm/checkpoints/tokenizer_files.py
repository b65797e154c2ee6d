"""The tokenizer's folder in a folder of diffusers: CLIP's vocabulary, and tokens that were added to it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.checkpoints.tensors import read_json
from ldm.models.tokenizer import CLIP_VOCABULARY, vocabulary
from ldm.utils.errors import UserError

# Files that name added tokens; those of transformers before version 5 and since.
SETTINGS, ADDED, WHOLE = "tokenizer_config.json", "added_tokens.json", "tokenizer.json"


def tokenizer_of(folder: Path, rows: int) -> dict[str, Any]:
    """Arguments of the text encoder that the tokenizer's files set: `pad_token` and `added_tokens`.

    Args:
        folder: of the tokenizer.
        rows: of the text encoder's token table.

    Raises: ValueError for another tokenizer than CLIP's, or an added token that has no row in the table.
    """
    files = {name: read_json(folder / name) for name in (SETTINGS, WHOLE) if (folder / name).is_file()}
    _check_vocabulary(folder, files)
    found: dict[str, Any] = {}
    if (pad := _pad_token(folder, files.get(SETTINGS, {}))) is not None:
        found["pad_token"] = pad
    if added := _added_tokens(folder, files):
        for token, number in added.items():
            if number >= rows:
                raise UserError(
                    f"the added token {token!r} of {folder} is number {number}, and the text encoder has "
                    f"{rows} rows"
                )
        found["added_tokens"] = added
    return found


def _check_vocabulary(folder: Path, files: Mapping[str, Any]) -> None:
    """Raises ValueError unless the files are those of CLIP's tokenizer, as far as they are there."""
    kind = files.get(SETTINGS, {}).get("tokenizer_class")
    if kind is not None and not str(kind).startswith("CLIPTokenizer"):
        raise UserError(f"the tokenizer must be a CLIPTokenizer for ldm, got {kind} in {folder}")
    model = files.get(WHOLE, {}).get("model", {})
    given = model.get("vocab") if isinstance(model, Mapping) else None
    if given is None and (folder / "vocab.json").is_file():
        given = read_json(folder / "vocab.json")
    if given is None:
        return
    tokens = vocabulary()[0]
    if other := next((token for token, number in tokens.items() if given.get(token, number) != number), None):
        raise UserError(
            f"the vocabulary in {folder} is not CLIP's: {other!r} is number {given[other]}, not "
            f"{tokens[other]}"
        )
    if lacking := len(tokens.keys() - given.keys()):
        raise UserError(f"the vocabulary in {folder} is not CLIP's: it lacks {lacking} of its tokens")


def _pad_token(folder: Path, settings: Mapping[str, Any]) -> int | None:
    """The id of the tokenizer's padding; None if the tokenizer names none."""
    special = folder / "special_tokens_map.json"
    for file in (settings, read_json(special) if special.is_file() else {}):
        token = file.get("pad_token")
        token = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(token, str) and token in (tokens := vocabulary()[0]):
            return tokens[token]
    return None


def _added_tokens(folder: Path, files: Mapping[str, Any]) -> dict[str, int]:
    """The tokens behind CLIP's by name, with their numbers."""
    found: dict[str, int] = {}
    if (folder / ADDED).is_file():
        found |= {str(token): int(number) for token, number in read_json(folder / ADDED).items()}
    for number, about in files.get(SETTINGS, {}).get("added_tokens_decoder", {}).items():
        found[about["content"]] = int(number)
    for about in files.get(WHOLE, {}).get("added_tokens", []):
        found[about["content"]] = int(about["id"])
    behind = {token: number for token, number in found.items() if number >= CLIP_VOCABULARY}
    return dict(sorted(behind.items(), key=lambda item: item[1]))


def write_tokenizer(folder: Path, node: Mapping[str, Any]) -> None:
    """Writes CLIP's vocabulary, its merges and the added tokens in the files that transformers reads.

    Args:
        folder: to write into; it exists.
        node: config of the text encoder.
    """
    tokens, merges = vocabulary()
    start, end = (next(token for token, i in tokens.items() if i == CLIP_VOCABULARY - k) for k in (2, 1))
    padding = next(token for token, i in tokens.items() if i == node["pad_token"])
    added = node.get("added_tokens") or {}
    write_json(folder / "vocab.json", tokens)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": padding}
    write_json(folder / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": node["max_length"], **special}
    if added:
        write_json(folder / ADDED, added)
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False}
        about = {str(number): {"content": token, **flags} for token, number in added.items()}
        ends = {
            str(tokens[token]): {"content": token, **flags, "normalized": False, "special": True}
            for token in (start, end)
        }
        settings["added_tokens_decoder"] = ends | about
    write_json(folder / SETTINGS, settings)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object, and the folder of the file if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
