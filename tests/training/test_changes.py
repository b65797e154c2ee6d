from pathlib import Path

import pytest

from ldm.training.changes import ABSENT, Change, changes, distinct, listed, refuse, undone
from ldm.training.fates import Fate
from ldm.utils.errors import UserError

ADAMW = {"_target_": "torch.optim.AdamW", "lr": 1e-3}


def keys(before, now):
    return [change.key for change in changes(before, now)]


def test_values_are_compared_below_nodes_and_lists_as_wholes():
    before = {"backbone": {"channels": [8, 16], "dropout": 0.0}, "seed": 0}
    now = {"backbone": {"channels": [8, 8], "dropout": 0}, "seed": 1}
    assert [str(change) for change in changes(before, now)] == [
        "backbone.channels from [8, 16] to [8, 8]",
        "seed from 0 to 1",
    ]


def test_an_argument_that_is_left_out_has_its_default():
    assert keys({"optimizer": ADAMW}, {"optimizer": ADAMW | {"amsgrad": False}}) == []
    assert keys({"optimizer": ADAMW | {"amsgrad": False}}, {"optimizer": ADAMW}) == []
    (change,) = changes({"optimizer": ADAMW}, {"optimizer": ADAMW | {"amsgrad": True}})
    assert (change.before, change.now, change.fate) == (False, True, Fate.START)
    other = {"_target_": "torch.optim.SGD", "lr": 1e-3}
    assert keys({"optimizer": ADAMW | {"eps": 1e-8}}, {"optimizer": other}) == [
        "optimizer._target_",
        "optimizer.eps",
    ]


def test_nothing_is_the_same_as_an_empty_node():
    assert keys({"logger": None, "adapters": {}}, {"logger": {}, "task": None}) == []


def test_a_node_that_appears_or_goes_is_one_change_of_the_strictest_fate():
    (change,) = changes({"optimizer": None}, {"optimizer": ADAMW})
    assert (change.key, change.fate, str(change)) == ("optimizer", Fate.START, "optimizer from null to AdamW")
    (change,) = changes({"thresholding": {"_target_": "a.Clip"}}, {"thresholding": None})
    assert (change.fate, str(change)) == (Fate.ACTS, "thresholding from Clip to null")


def test_paths_that_lead_to_one_file_are_equal(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    node = {"data": {"root": str(tmp_path / "data")}}
    assert keys(node, {"data": {"root": str(tmp_path / "link")}}) == []
    assert keys(node, {"data": {"root": str(tmp_path)}}) == ["data.root"]


def test_places_of_the_run_do_not_count():
    assert keys({"paths": {"run": "a"}, "resume": "auto"}, {"paths": {"run": "b"}, "resume": "never"}) == []


def test_copies_are_listed_once_but_undone_everywhere():
    before = {"optimizer": dict(ADAMW), "task": {"optimizer": dict(ADAMW)}}
    now = {"optimizer": ADAMW | {"lr": 1.0}, "task": {"optimizer": ADAMW | {"lr": 1.0, "eps": 0.1}}}
    found = changes(before, now)
    assert [change.key for change in distinct(found)] == ["optimizer.lr", "task.optimizer.eps"]
    restored = undone(now, found)
    assert restored["task"]["optimizer"]["lr"] == restored["optimizer"]["lr"] == 1e-3
    assert changes(before, restored) == []
    assert now["optimizer"]["lr"] == 1.0
    assert undone({"a": {"b": 1}}, [Change("a.b", ABSENT, 1)]) == {"a": {}}


def test_refusals_name_all_keys_and_what_to_do():
    acts, branch, start = (
        Change("threads", 1, 2),
        Change("seed", 0, 1),
        Change("prediction._target_", "ldm.x.Epsilon", "ldm.x.Velocity"),
    )
    folder = Path("r/checkpoints/step_00000020")
    refuse([acts], folder, branches=False)
    refuse([acts, branch], folder, branches=True)
    with pytest.raises(UserError, match=r"^seed: cannot .* to 1: .* branch off with resume=r/checkpoints/s"):
        refuse([acts, branch], folder, branches=False)
    with pytest.raises(
        UserError, match=r"^prediction\._target_: .* \(nor seed from .*\): .*init_checkpoint="
    ):
        refuse([acts, branch, start], folder, branches=False)
    with pytest.raises(UserError, match=r"^prediction\._target_: cannot"):
        refuse([acts, branch, start], folder, branches=True)


def test_long_lists_and_values_are_cut():
    assert listed([Change(f"k{i}", 0, 1) for i in range(14)]).endswith("k11 from 0 to 1 and 2 more")
    assert len(str(Change("prompts", ["word"] * 50, None))) < 100
