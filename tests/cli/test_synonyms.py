"""What the table advises can be written."""

import pytest

from ldm.cli.comments import entries
from ldm.cli.compose import compose
from ldm.cli.pages import Files
from ldm.cli.plain_keys import is_group, primary_keys
from ldm.cli.synonyms import NOTES, POSITIONAL, SYNONYMS, TRAINING


@pytest.mark.parametrize("command", SYNONYMS)
def test_every_key_of_the_table_exists(command):
    known = {*primary_keys(command), "hydra.run.dir"}
    files = Files()
    for word, advice in SYNONYMS[command].items():
        assert word not in primary_keys(command) or is_group(word), word
        for override in advice.split():
            key = override.partition("=")[0]
            group, _, name = key.partition(".")
            if key in known or key in {e.key for e in files.keys(command)}:
                continue
            options = [entries(files.read(f"{group}/{option}.yaml")) for option in files.options(group)]
            mode = [entries(files.read(f"mode/{option}.yaml")) for option in files.options("mode")]
            names = {e.key for keys in options for e in keys} | {e.key for keys in mode for e in keys}
            assert (name or key) in names, override
    assert set(POSITIONAL[command]) <= known


def test_the_keys_of_the_commonest_words_compose():
    config = compose(
        "train", ["optimizer.lr=1", "data.batch_size=4", "trainer.max_steps=3", "task.ema_images=9"]
    )
    assert config["optimizer"]["lr"] == 1


def test_every_note_belongs_to_a_word_of_the_training():
    assert NOTES.keys() <= TRAINING.keys()
    assert NOTES["max_epochs"] == NOTES["epochs"]
