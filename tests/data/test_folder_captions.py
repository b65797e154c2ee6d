"""Metadata of Hugging Face's imagefolder: captions by file, or one line with the command that reads them."""

import json

import pytest

from ldm.data.folder_captions import check_splits, described


def rows(*values):
    return "\n".join(json.dumps(value) for value in values)


def read(root):
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): text for path, text in described(files, root).items()}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_rows_of_both_kinds_of_files_are_captions(encoding, ending, tmp_path):
    (tmp_path / "a").mkdir()
    text = rows({"file_name": "0.png", "text": "größe, rot"}, {"file_name": "b/1.png", "text": "blau"})
    (tmp_path / "a" / "metadata.jsonl").write_bytes(text.replace("\n", ending).encode(encoding))
    text = 'file_name,text,n\n2.png,"red, ""big""",1\n.\\c\\3.png,two words,2\n'
    (tmp_path / "metadata.csv").write_bytes(text.replace("\n", ending).encode(encoding))
    expected = {"a/0.png": "größe, rot", "a/b/1.png": "blau", "2.png": 'red, "big"', "c/3.png": "two words"}
    assert read(tmp_path) == expected


def test_the_nearest_metadata_count(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "metadata.jsonl").write_text(rows({"file_name": "a/0.png", "text": "far"}))
    (tmp_path / "a" / "metadata.jsonl").write_text(rows({"file_name": "0.png", "text": "near"}))
    assert read(tmp_path) == {"a/0.png": "near"}


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"text": "a", "caption": "b"}, "a"),
        ({"caption": "b", "title": "c", "n": 1}, "b"),
        ({"prompt": "d", "n": 1}, "d"),
    ],
)
def test_the_column_of_captions_is_found_by_name_or_as_the_only_text(row, column, tmp_path):
    (tmp_path / "metadata.jsonl").write_text(rows({"file_name": "0.png"} | row))
    assert read(tmp_path) == {"0.png": column}


ONE = {"file_name": "0.png", "text": "a"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            rows({"file_name": "0.png", "a": "x", "b": "y"}),
            r"no column text or caption, but a, b: ldm-data",
        ),
        (rows({"file_name": "0.png", "label": 3}), r"but label: .* caption_column=COLUMN reads it"),
        (rows({"text": "a"}), r"no column file_name, but text"),
        (rows(ONE) + "\n{", r"metadata.jsonl, line 2: no JSON"),
        ("[1]", r"line 1: must be an object, got \[1\]"),
        (rows(ONE | {"file_name": None}), r"line 1: file_name must name an image, got None"),
        (rows(ONE, ONE | {"text": "b"}), r"line 2: 0.png has two captions: ldm-data hf dataset=\S+ output="),
    ],
)
def test_metadata_that_cannot_be_read_say_why_and_what_reads_them(text, says, tmp_path):
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=says):
        read(tmp_path)


def test_metadata_in_parquet_are_refused_with_the_command_that_reads_them(tmp_path):
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"metadata.parquet is not read here: ldm-data hf dataset="):
        read(tmp_path)


def test_splits_are_the_only_folders_and_one_of_them_is_chosen(tmp_path):
    def found(*names):
        return check_splits([tmp_path / name for name in names], tmp_path)

    assert found("train/0.png", "train/1.png") == "train"
    assert found("train/0.png", "cat/1.png") is None
    assert found("train/0.png", "1.png") is None
    assert found("0.png") is None
    with pytest.raises(ValueError, match=rf"holds the splits test, train: .*data.root={tmp_path}/train$"):
        found("train/cat/0.png", "test/cat/1.png")
