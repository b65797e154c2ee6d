"""Words that other programs understand get one line with the key to write."""

import pytest

from ldm.cli.advice import check_words, flag_advice, synonym
from ldm.utils.errors import UserError


@pytest.mark.parametrize(
    ("command", "flag", "value", "line"),
    [
        ("sample", "--prompt", "a cat", '--prompt: write prompt="a cat"'),
        ("sample", "--steps", "20", "--steps: write num_inference_steps=20"),
        ("sample", "--overwrite", "", "--overwrite: write overwrite=..."),
        ("train", "--learning-rate", "1e-4", "--learning-rate: write optimizer.lr=1e-4"),
        ("train", "--multirn", "", "--multirn: no such flag; did you mean '--multirun'?"),
        ("train", "--xyzzy", "", "--xyzzy: no such flag; ldm-train --help lists flags and keys"),
    ],
)
def test_flags(command, flag, value, line):
    assert flag_advice(command, flag, value, ["--multirun", "--help"]) == line


def test_the_decay_of_an_average_is_converted():
    line = synonym("train", "ema_decay", "0.9999")
    assert line is not None
    assert line.startswith("write task.ema_images=10000*BATCH")


def test_a_word_without_a_synonym_has_none():
    assert synonym("train", "xyzzy", "1") is None


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        ("sample", ["a", "cat"], 'a cat: write prompt="a cat"'),
        ("train", ["emoji"], "emoji: write experiment=emoji"),
        ("convert", ["in", "out", "format=ldm"], "in out: write input=in output=out"),
        (
            "sample",
            ["timesteps=[999,500.5,1]"],
            "timesteps=[999,500.5,1]: write timesteps=explicit timesteps.times=[999,500.5,1] "
            "num_inference_steps=3",
        ),
        ("sample", ["guidance=7.5"], "guidance=7.5: write guidance_scale=7.5"),
    ],
)
def test_words_that_are_no_overrides(command, words, line):
    with pytest.raises(UserError) as caught:
        check_words(command, words)
    assert str(caught.value).startswith(line)


def test_overrides_pass():
    check_words("train", ["a=1", "+b=2", "~c", "guidance=cfg", "guidance=null"])
