"""A UserError is one line with the key in front."""

import pickle

import pytest

from ldm.utils.errors import UserError, did_you_mean, with_key


def test_the_key_stands_in_front_and_survives_pickling():
    error = UserError("must be positive", "data.batch_size")
    assert str(error) == "data.batch_size: must be positive"
    assert str(UserError("must be positive")) == "must be positive"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.key) == (str(error), error.key)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("eta must be in [0, 1], got 2", "scheduler.eta: must be in [0, 1], got 2"),
        ("eta needs a value", "scheduler.eta: needs a value"),
        ("eta and rho exclude each other", "scheduler: eta and rho exclude each other"),
        ("rho must be 1", "scheduler: rho must be 1"),
        ("two\n  lines", "scheduler: two lines"),
        ("", "scheduler: ValueError"),
    ],
)
def test_an_argument_becomes_part_of_the_key(message, line):
    assert str(with_key(ValueError(message), "scheduler", ["eta", "size"])) == line


def test_the_innermost_key_is_kept():
    inner = UserError("must be 1", "a.b")
    assert with_key(inner, "a", ["b"]) is inner


@pytest.mark.parametrize(
    ("word", "options", "hint"),
    [
        ("sed", ["seed", "name"], "; did you mean 'seed'?"),
        ("lr", ["seed", "task.optimizer.lr"], "; did you mean 'task.optimizer.lr'?"),
        ("max_step", ["trainer.max_steps"], "; did you mean 'trainer.max_steps'?"),
        ("qqq", ["seed"], ""),
    ],
)
def test_did_you_mean(word, options, hint):
    assert did_you_mean(word, options) == hint
