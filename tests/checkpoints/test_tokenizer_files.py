"""Tokens that were added to a tokenizer are read, kept and written; other tokenizers are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.checkpoints import convert_checkpoint, load_model
from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.converter import write_checkpoint
from ldm.checkpoints.tokenizer_files import tokenizer_of, write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ADDED = {"<cat-toy>": 49_408, "<cat-toy>_1": 49_409, "sks": 49_410}
NODE = {"pad_token": 0, "max_length": 77}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, NODE | {"added_tokens": ADDED})
    return folder


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(value | changes), encoding="utf-8")


def test_added_tokens_are_read_from_each_file_that_has_them(written: Path, tmp_path: Path):
    assert tokenizer_of(written, 49_412) == {"pad_token": 0, "added_tokens": ADDED}
    for keep in ("added_tokens.json", "tokenizer_config.json"):
        folder = shutil.copytree(written, tmp_path / keep)
        if keep == "added_tokens.json":
            (folder / "tokenizer_config.json").unlink()
        else:
            (folder / "added_tokens.json").unlink()
        assert tokenizer_of(folder, 49_412)["added_tokens"] == ADDED
    folder = tmp_path / "whole"  # as transformers 5 writes it
    folder.mkdir()
    tokens = [
        {"id": number, "content": token} for token, number in {"<|endoftext|>": 49_407, **ADDED}.items()
    ]
    vocab = json.loads((written / "vocab.json").read_text(encoding="utf-8"))
    edit(folder, "tokenizer.json", added_tokens=tokens, model={"vocab": vocab})
    edit(folder, "tokenizer_config.json", tokenizer_class="CLIPTokenizer", pad_token="!")
    assert tokenizer_of(folder, 49_412) == {"pad_token": 0, "added_tokens": ADDED}


def test_a_plain_tokenizer_adds_nothing(tmp_path: Path):
    write_tokenizer(tmp_path, NODE)
    assert tokenizer_of(tmp_path, 49_408) == {"pad_token": 0}
    assert not (tmp_path / "added_tokens.json").exists()
    assert tokenizer_of(tmp_path / "absent", 49_408) == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda f: edit(f, "tokenizer_config.json", tokenizer_class="T5Tokenizer"),
            "must be a CLIPTokenizer",
        ),
        (lambda f: edit(f, "vocab.json", **{"cat</w>": 7}), "is not CLIP's: 'cat</w>' is number 7"),
        (lambda f: (f / "vocab.json").write_text('{"a": 320}'), "is not CLIP's: "),
        (lambda f: edit(f, "added_tokens.json", many=60_000), "'many' .* is number 60000, .* has 49412 rows"),
    ],
)
def test_another_tokenizer_is_refused(
    change: Callable[[Path], Any], says: str, written: Path, tmp_path: Path
):
    folder = shutil.copytree(written, tmp_path / "tokenizer")
    change(folder)
    with pytest.raises(ValueError, match=says):
        tokenizer_of(folder, 49_412)


def test_added_tokens_stay_in_every_format_that_has_a_place_for_them(
    stable_diffusion: Callable[..., LoadedModel], tmp_path: Path
):
    model = stable_diffusion("sd1", 0)
    encoder: Any = model.components["text_encoder"]
    table = encoder.tower.token_embedding.weight
    grown = torch.cat([table, torch.randn(4, table.shape[1])])
    write_checkpoint(model, tmp_path / "plain", "diffusers")
    encoder.tower.token_embedding.weight = torch.nn.Parameter(grown)
    node = model.config["text_encoder"] | {"vocabulary_size": len(grown), "added_tokens": ADDED}
    model = LoadedModel(config=model.config | {"text_encoder": node}, components=model.components)
    write_checkpoint(model, tmp_path / "a", "diffusers")
    convert_checkpoint(tmp_path / "a", tmp_path / "b.safetensors")
    convert_checkpoint(tmp_path / "b.safetensors", tmp_path / "c", format="diffusers")
    for name in ("a", "b.safetensors", "c"):
        found = load_model(tmp_path / name).components["text_encoder"]
        assert 49_408 in found.tokenize(["a <cat-toy> backpack"])[0]
        assert torch.equal(found.tower.token_embedding.weight, grown)
    with pytest.raises(ValueError, match="added_tokens have no place"):
        convert_checkpoint(tmp_path / "a", tmp_path / "d.safetensors", format="original")


def test_transformers_reads_the_tokens_that_we_write(written: Path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(written)
    from ldm.models.tokenizer import added_words, units

    for text in ("a <cat-toy>_1 backpack", "A Sks, dog", "x<CAT-TOY>_1's"):
        added = {token: number for token, number in ADDED.items() if token != "<cat-toy>"}
        words = added_words(added)
        mine = [token for unit in units(text, words, within=tuple(words)) for token in unit]
        assert theirs(text)["input_ids"][1:-1] == mine, text
