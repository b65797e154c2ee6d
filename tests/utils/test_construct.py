"""The builder refuses each mistake with its key and builds from the inside."""

import copy
import functools
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from ldm.diffusion.prediction import Velocity
from ldm.diffusion.process import Diffusion
from ldm.diffusion.timesteps import trailing
from ldm.utils.construct import Deferred, annotation_in, check, construct, fits, node_at, reconstruct
from ldm.utils.errors import UserError

ADAMW = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1.0e-3}
CONV = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": 3}
DDIM = {"_target_": "ldm.schedulers.ddim.DDIM", "eta": 2.0}
TRAILING = {"_target_": "ldm.diffusion.timesteps.trailing", "_partial_": True}


def test_good_nodes_pass():
    check({"a": ADAMW, "b": [CONV], "c": {"d": {"_target_": "torch.nn.SiLU"}}, "e": {"lrr": 1, "n": None}})


@pytest.mark.parametrize("partial", [True, False])
def test_unknown_key_is_named_with_its_path_and_the_nearest(partial):
    node = {**ADAMW, "lrr": 1.0, "_partial_": partial}
    message = r"^task\.optimizer\.lrr: unknown key; did you mean 'lr'\? allowed: "
    with pytest.raises(UserError, match=message) as caught:
        check({"task": {"optimizer": node}})
    assert caught.value.key == "task.optimizer.lrr"
    with pytest.raises(UserError, match=message):
        construct(node, "task.optimizer")


def test_unknown_key_in_a_list_is_named():
    with pytest.raises(UserError, match=r"^nets\.1\.in_chanels: unknown key; did you mean 'in_channels'"):
        check({"nets": [CONV, {**CONV, "in_chanels": 3}]})


def test_unknown_key_without_a_near_one_lists_what_is_allowed():
    with pytest.raises(UserError, match=r"^a\.zzz: unknown key; allowed: approximate$"):
        check({"a": {"_target_": "torch.nn.GELU", "zzz": 1}})


def test_open_ended_target_takes_any_key():
    check({"a": {"_target_": "ldm.utils.construct.construct", "anything": 1}})


def test_missing_argument_is_named_unless_partial_or_supplied():
    node = {k: v for k, v in CONV.items() if k != "kernel_size"}
    message = r"^net\.kernel_size: missing; torch\.nn\.Conv2d needs it$"
    with pytest.raises(UserError, match=message):
        check({"net": node})
    with pytest.raises(UserError, match=message):
        construct(node, "net")
    check({"net": {**node, "_partial_": True}})
    check({"net": node}, supplied={"net": ["kernel_size"]})
    assert construct(node, "net", kernel_size=5).kernel_size == (5, 5)


def test_no_object_is_nested_under_partial():
    node = {"_target_": "torch.nn.Sequential", "_partial_": True, "arg": {"b": CONV}}
    with pytest.raises(UserError, match=r"^a\.arg\.b: no object may be nested under _partial_ \(a\)$"):
        check({"a": {**node, "_target_": "ldm.utils.construct.construct"}})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({**ADAMW, "lr": "fast"}, r"a\.lr: must be float .*, got 'fast'"),
        ({**ADAMW, "amsgrad": "yes"}, r"a\.amsgrad: must be bool, got 'yes'"),
        ({**CONV, "in_channels": 3.5}, r"a\.in_channels: must be int, got 3\.5"),
        ({**CONV, "in_channels": True}, r"a\.in_channels: must be int, got True"),
        ({**CONV, "padding_mode": "zero"}, r"a\.padding_mode: must be .*'zeros'.*, got 'zero'"),
    ],
)
def test_misfit_value_is_named(node, message):
    with pytest.raises(UserError, match=f"^{message}"):
        check({"a": node})


def test_integer_is_a_float():
    check({"a": {**ADAMW, "lr": 1}})


def test_missing_value_is_named_unless_nothing_needs_it():
    with pytest.raises(UserError, match=r"^data\.root: needs a value \(data\.root=\.\.\.\)$"):
        check({"data": {"root": "???"}})
    check({"data": {"root": "???"}}, unneeded=["data"])


def test_nested_nodes_are_built_from_the_inside():
    node = {
        "_target_": "ldm.diffusion.process.Diffusion",
        "schedule": {"_target_": "ldm.diffusion.schedule.cosine", "num_train_timesteps": 10},
        "prediction": {"_target_": "ldm.diffusion.prediction.Velocity"},
        "weighting": {"_target_": "ldm.diffusion.weighting.MinSNR", "gamma": 3.0},
    }
    diffusion = reconstruct(node)
    assert isinstance(diffusion, Diffusion)
    assert diffusion.prediction == Velocity()
    assert diffusion.schedule.num_train_timesteps == 10


def test_partial_nodes_wait_for_their_arguments():
    grid = construct({"_target_": "ldm.diffusion.timesteps.leading", "_partial_": True, "offset": 1})
    assert isinstance(grid, functools.partial)
    assert grid(10, 2).tolist() == [6.0, 1.0, -1.0]
    assert construct(TRAILING)(10, 3).tolist() == trailing(10, 3).tolist()


def test_a_deferred_call_names_its_key_and_survives_copies():
    grid = construct(TRAILING, "sampling.timesteps")
    for same in (grid, copy.deepcopy(grid), pickle.loads(pickle.dumps(grid))):
        assert isinstance(same, Deferred)
        with pytest.raises(UserError, match=r"^sampling\.timesteps: num_inference_steps must be 1 to 10"):
            same(10, 0)


def test_an_optimizer_that_refuses_its_parameters_is_one_line():
    optimizer = construct(ADAMW, "optimizer")
    with pytest.raises(UserError, match=r"^optimizer: optimizer got an empty parameter list$"):
        optimizer([])


@pytest.mark.parametrize("value", [3, 1.5, "text", None, True, [1, {"a": [2]}], {"a": {"b": 1}}])
def test_plain_values_are_themselves(value: object):
    assert construct(value) == value


def test_live_objects_are_passed_untouched():
    parameters = list(torch.nn.Linear(2, 2).parameters())
    made = construct({**ADAMW, "_partial_": False}, "optimizer", params=parameters)
    assert made.param_groups[0]["params"][0] is parameters[0]


def test_building_draws_what_the_constructor_draws():
    torch.manual_seed(0)
    direct = torch.nn.Conv2d(3, 8, 3)
    torch.manual_seed(0)
    assert torch.equal(construct(CONV).weight, direct.weight)


def test_a_refused_argument_is_named_by_its_key():
    with pytest.raises(UserError, match=r"^sampling\.scheduler\.eta: must be in \[0, 1\], got 2") as caught:
        construct({"scheduler": DDIM}, "sampling")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(UserError, match=r"^eta: must be in"):
        construct(DDIM)


def test_a_missing_file_is_named_by_its_key(tmp_path):
    node = {"_target_": "ldm.models.perceptual.PerceptualDistance", "weights": str(tmp_path / "a.pth")}
    with pytest.raises(UserError, match=r"^perceptual\.weights: must be .*a\.pth"):
        construct(node, "perceptual")


def test_files_name_nets_and_solvers_only():
    assert construct({"_target_": "torch.nn.Identity"}) is not None
    with pytest.raises(UserError, match=r"^net\._target_: 'torch\.nn\.Identity' is not allowed"):
        reconstruct({"_target_": "torch.nn.Identity"}, "net")
    with pytest.raises(UserError, match=r"^net\._target_: .* is not allowed"):
        reconstruct({"_target_": "ldm.cli.app.entry"}, "net")


def test_other_directives_are_refused():
    with pytest.raises(UserError, match=r"^a\._args_: unknown key"):
        construct({**DDIM, "_args_": [1]}, "a")


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (["a"], list[str], True),
        ("letters", list[str], False),
        ("letters", Sequence[str], False),
        ([1, "a"], list[str], False),
        ([[1, 2]], Sequence[Sequence[int]], True),
        ([1], Sequence[Sequence[int]], False),
        ({"_target_": "mine.Captions"}, Sequence[str], True),  # only the target can tell
        ({"a": 1}, list[str], False),
        ("a", str | list[str], True),
        (None, list[str] | None, True),
        ([], list[int], True),
    ],
)
def test_a_list_is_a_list_of_values_that_fit(value, annotation, expected):
    assert fits(value, annotation) is expected


def test_the_annotation_of_a_key_is_that_of_its_targets_argument():
    config = {"a": {"b": DDIM}, "c": {"d": 1}}
    assert annotation_in(config, "a.b.eta") is float
    assert annotation_in(config, "c.d") is Any
    assert annotation_in(config, "a.b.none") is Any
    assert annotation_in(config, "nowhere.x") is Any
    assert node_at(config, "a.b") == DDIM
    assert node_at(config, "c.d") is None
