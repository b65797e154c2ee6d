"""The options of a config group as objects."""

import pytest

from ldm.schedulers import DDIM
from ldm.utils.options import options


def test_options_are_built_by_name():
    found = options("scheduler")
    assert list(found) == sorted(found)
    assert found["ddim"] == DDIM()


def test_a_group_that_is_not_there_is_refused():
    with pytest.raises(FileNotFoundError, match="no config group 'sheduler'"):
        options("sheduler")
