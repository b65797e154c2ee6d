"""Every key of the configs has a type, so that none is read in the wrong grammar."""

import inspect
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from ldm.cli.compose import compose
from ldm.cli.null_groups import default_options
from ldm.cli.plain_keys import is_group, plain_keys, primary
from ldm.cli.schema import TYPES, Kind, check_types, describe, kind
from ldm.utils.construct import annotation_in
from ldm.utils.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
REQUIRED = {"convert": ["input=a", "output=b"], "ema": ["run=a", "sigma_rel=0.1", "output=b"]}


def leaves(node, prefix=""):
    """Dotted keys and values of the plain values in a config that no target describes."""
    for name, value in node.items():
        if isinstance(value, dict) and "_target_" not in value:
            yield from leaves(value, f"{prefix}{name}.")
        elif not isinstance(value, dict) and not str(value).startswith("${"):
            yield f"{prefix}{name}", value


def nodes(value):
    """All nodes with a target in a config file."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        for child in value.values():
            yield from nodes(child)


def own_keys(command):
    """Keys of a primary config, of the one that it extends, and those that options add to all of it."""
    config = primary(command)
    for entry in config["defaults"]:
        if isinstance(entry, str) and entry != "_self_":
            yield from own_keys(entry)
    yield from (key for key, _ in leaves({k: config[k] for k in plain_keys(command)}))
    for group in default_options(command):
        for file in (CONF / group).glob("*.yaml"):
            text = file.read_text()
            if text.startswith("# @package _global_"):
                added = {k: v for k, v in yaml.safe_load(text).items() if k != "defaults" and not is_group(k)}
                yield from (key for key, _ in leaves(added))


@pytest.mark.parametrize("command", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_key_of_a_primary_config_has_a_type_that_its_default_fits(command):
    assert set(own_keys(command)) - TYPES[command].keys() == set()
    config = compose(command, [*REQUIRED.get(command, ()), "paths.run=/nowhere"])
    assert check_types(command, config) == config


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_every_text_of_a_node_of_ours_is_annotated_as_one(file):
    for node in nodes(yaml.safe_load(file.read_text())):
        for name, value in node.items():
            if isinstance(value, str) and not name.startswith("_") and "${" not in value:
                annotation = annotation_in({"node": node}, f"node.{name}")
                if node["_target_"].startswith("ldm.") and value != "???":
                    assert annotation not in (Any, inspect.Parameter.empty), name
                    assert kind(annotation).text, name


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str | None, Kind(text=True, texts=False, other=False)),
        (Path, Kind(text=True, texts=False, other=False)),
        (str | list[str], Kind(text=True, texts=True, other=False)),
        (list[str | None], Kind(text=False, texts=True, other=False)),
        (tuple[str, ...] | int, Kind(text=False, texts=True, other=True)),
        (Literal["a", "b"], Kind(text=True, texts=False, other=False)),
        (int | list[int] | None, Kind(text=False, texts=False, other=True)),
        (Any, Kind(text=False, texts=False, other=True)),
    ],
)
def test_the_kinds_of_a_type(annotation, expected):
    assert kind(annotation) == expected


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seed", None, "seed: must be a whole number or a list of whole numbers, got None"),
        ("seed", 1.5, "seed: must be a whole number or a list of whole numbers, got 1.5"),
        ("seed", True, "seed: must be a whole number or a list of whole numbers, got True"),
        ("seed", "random", "seed: must be a whole number or a list of whole numbers, got 'random'"),
        ("seed", [1, "x"], "seed: must be a whole number or a list of whole numbers, got [1, 'x']"),
        ("ema", 1, "ema: must be true or false, got 1"),
        ("guidance_scale", "high", "guidance_scale: must be a number or null, got 'high'"),
        ("guidance_scale", float("nan"), "guidance_scale: must be finite, got nan"),
        ("size", 512, "size: must be a list of whole numbers or null, got 512"),
        ("prompt", {"a": 1}, "prompt: must be text, a list of texts or null, got {'a': 1}"),
        ("prompt", [["a"]], "prompt: must be text, a list of texts or null, got [['a']]"),
        ("checkpoint", "", "checkpoint: must not be empty"),
        ("scale", 0, "scale: must be at least 1, got 0"),
        ("threads", -1, "threads: must be at least 1, got -1"),
        ("output", ["a"], "output: must be text or null, got ['a']"),
    ],
)
def test_a_value_of_another_type_is_one_line_with_the_key(key, value, line):
    with pytest.raises(UserError) as caught:
        check_types("sample", {key: value})
    assert str(caught.value) == line


def test_numbers_where_only_text_is_allowed_are_text():
    config = {"prompt": [1, True, "x"], "checkpoint": 7, "seed": 3}
    found = check_types("sample", config)
    assert found == {"prompt": ["1", "true", "x"], "checkpoint": "7", "seed": 3}
    assert config["checkpoint"] == 7
    assert check_types("train", {"prompts": 4}) == {"prompts": 4}


def test_commands_of_the_users_have_no_types():
    assert check_types("mine", {"seed": "x"}) == {"seed": "x"}


def test_types_are_described_in_words():
    assert describe(str | list[str | None] | None) == "text, a list of texts or null"
    assert describe(bool) == "true or false"
