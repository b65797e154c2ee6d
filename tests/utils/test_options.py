"""The options of a config group as objects, by name."""

from functools import partial

import pytest

from ldm.diffusion.level_grids import explicit
from ldm.schedulers import DDIM
from ldm.utils.errors import UserError
from ldm.utils.options import names, node, node_of, option, options

GROUPS = ("scheduler", "timesteps", "guidance", "thresholding")


def test_options_are_built_by_name():
    found = options("scheduler")
    assert list(found) == sorted(found) == names("scheduler")
    assert found["ddim"] == option("scheduler", "ddim") == DDIM()


def test_a_group_that_is_not_there_is_refused():
    with pytest.raises(FileNotFoundError, match="no config group 'sheduler'"):
        options("sheduler")


def test_an_option_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(
        UserError, match=r"scheduler must be one of ddim, .*; got 'eulera'; did you mean 'euler"
    ):
        option("scheduler", "eulera")
    with pytest.raises(UserError, match="guidance must be one of apg"):
        node("guidance", "../scheduler/ddim")


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in GROUPS for n in names(g)])
def test_the_node_of_an_option_is_what_its_file_says(group: str, name: str):
    assert node_of(option(group, name)) == node(group, name)


def test_nodes_of_functions_and_refusals():
    assert node_of(partial(explicit, times=(3.0, 1.0))) == {
        "_target_": "ldm.diffusion.level_grids.explicit",
        "_partial_": True,
        "times": [3.0, 1.0],
    }
    for value in (object(), lambda x: x, DDIM):
        with pytest.raises(UserError, match="no config describes"):
            node_of(value)
