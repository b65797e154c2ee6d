"""Advice on an override that the config does not have."""

from argparse import Namespace

import pytest

from ldm.cli.unknown_keys import check_unknown, keys_of
from ldm.utils.errors import UserError


def advice(command, override, *others):
    key = override.lstrip("+").split("=")[0]
    arguments = Namespace(overrides=[override, *others], config_name=None, config_dir=None)
    with pytest.raises(UserError) as caught:
        check_unknown(ValueError(f"Could not override '{key}'."), command, arguments, arguments.overrides)
    return str(caught.value)


def test_a_key_of_another_program_has_its_name_here():
    assert advice("train", "lr=0.1") == "lr: write optimizer.lr=0.1"


def test_the_nearest_key():
    assert advice("train", "sed=1") == "sed: unknown key; did you mean 'seed'?"


def test_no_key_is_added_that_nothing_reads():
    assert advice("sample", "xyzzy=1") == "xyzzy: unknown key; ldm-sample --help lists the keys"


def test_arguments_of_foreign_classes_can_be_added():
    expected = "trainer.xyzzy: unknown key; +trainer.xyzzy=... passes it to lightning.pytorch.Trainer"
    assert advice("train", "trainer.xyzzy=1") == expected


def test_a_key_below_null_needs_an_option_first():
    line = advice("train", "adapters.rank=1")
    assert line.endswith("; adapters is null: choose an option (adapters=..., ldm-train --help adapters)")


def test_other_errors_are_left_alone():
    check_unknown(ValueError("else"), "train", Namespace(overrides=[]), [])


def test_keys_are_dotted():
    assert keys_of({"a": {"b": 1}, "c": None}) == ["a", "a.b", "c"]
