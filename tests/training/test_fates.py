"""The table of fates is complete, it is what the docs have, and copies have the fate of their originals."""

import re
from pathlib import Path

import pytest
import yaml

from ldm.cli.compose import compose
from ldm.training.fates import COPIES, MEANING, TABLE, Fate, docs_table, fate_of, moved_below, row_of

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
OTHER_COMMANDS = {"cluster", "hydra", "mode"}
FILES = [path for path in CONF.rglob("*.yaml") if path.relative_to(CONF).parts[0] not in OTHER_COMMANDS]


def leaves(value, key=""):
    if isinstance(value, dict) and value:
        for name, child in value.items():
            yield from leaves(child, f"{key}.{name}" if key else name)
    elif not re.fullmatch(r"\$\{[\w.]+\}", str(value)):  # a node from elsewhere
        yield key


def fields(path):
    """Keys that a file of conf/ sets, with those of its group in front."""
    text = path.read_text()
    home = path.parent.relative_to(CONF).parts
    prefix = "" if "@package _global_" in text else ".".join(home)
    node = {key: value for key, value in yaml.safe_load(text).items() if key not in ("defaults", "hydra")}
    return leaves(node, prefix)


def test_every_field_of_every_option_and_experiment_has_a_fate():
    """conf/test_groups.py walks the composed configs."""
    paths = [path for path in FILES if path.parent != CONF or path.stem == "train"]
    without = {(path.stem, key) for path in paths for key in fields(path) if row_of(key) is None}
    assert without == set()
    assert len({key for path in paths for key in fields(path)}) > 300


@pytest.mark.parametrize(
    "key", ["new", "task.new", "data.new", "trainer.new", "first_stage.new", "first_stage.task.new"]
)
def test_a_new_field_has_no_fate_until_it_stands_in_the_table(key):
    assert row_of(key) is None
    assert fate_of(key) is Fate.BRANCH


def test_every_key_of_the_table_is_reached_by_no_row_before_its_own():
    for row in TABLE:
        for key in row.keys:
            assert row_of(key.removesuffix(".*")) is row, key


@pytest.mark.parametrize(
    ("key", "fate"),
    [
        ("task.optimizer.lr", Fate.ACTS),
        ("first_stage.task.optimizer.lr", Fate.ACTS),
        ("first_stage.task.optimizer._target_", Fate.START),
        ("first_stage.task.lr_schedule.total_images", Fate.ACTS),
        ("first_stage.data.num_workers", Fate.ACTS),
        ("first_stage.data.batch_size", Fate.START),
        ("task.diffusion.prediction._target_", Fate.START),
        ("task.sampling.guidance.interval", Fate.ACTS),
        ("first_stage.task.autoencoder.channels", Fate.START),
        ("callbacks.of_a_user.every", Fate.ACTS),
        ("backbone.dropout", Fate.BRANCH),
        ("backbone.depth", Fate.START),
    ],
)
def test_a_key_has_the_fate_of_what_it_is_a_copy_of_or_alike_to(key, fate):
    assert fate_of(key) is fate


def test_copies_are_copies():
    """What the table takes for a copy has the value of the original in a composed config."""
    config = compose("train", ["experiment=emoji", "paths.run=/nowhere"])

    def value(key):
        node = config
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return node

    places = set(COPIES) - {"first_stage.data"}  # its own data, which are the run's in some configs
    assert {place for place in places if value(place) != value(moved_below(place, COPIES))} == set()


def test_the_docs_have_the_table():
    assert docs_table() in (ROOT / "docs" / "checkpoints.md").read_text()
    assert all(meaning in docs_table() for meaning in MEANING.values())
