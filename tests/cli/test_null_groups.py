import pytest

from ldm.cli import sample, train
from ldm.cli.null_groups import default_options, replace_null_groups
from ldm.utils.errors import UserError


def composed(capsys, *overrides, main=train.main):
    import yaml

    assert main([*overrides, "--cfg", "job"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    "group", ["adapters", "callbacks", "guidance", "logger", "lr_schedule", "thresholding"]
)
def test_an_optional_group_is_null_whatever_the_experiment_sets(group, capsys):
    assert composed(capsys, "experiment=tiny", f"{group}=null")[group] is None


def test_averages_of_an_experiment_can_be_left_out(capsys):
    cfg = composed(capsys, "experiment=emoji_large", "averages=null")
    assert cfg["task"]["power_ema"] == []
    assert cfg["callbacks"]["ema"] is None


def test_several_groups_are_null_at_once(capsys):
    cfg = composed(capsys, "lr_schedule=null", "guidance=null")
    assert cfg["lr_schedule"] is cfg["guidance"] is None


def test_a_group_that_is_null_by_default_may_be_null(capsys):
    assert composed(capsys, "scheduler=null", main=sample.main)["scheduler"] is None


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("data=null", "data=null: needs one of its options: cifar10, emoji"),
        ("trainer=null", "trainer=null: needs one of its options: cpu, ddp"),
        ("text_encoder=null", "text_encoder=null: write text_encoder=none: class, clip"),
    ],
)
def test_a_group_that_is_needed_is_refused_in_one_line(override, line, capsys):
    assert train.main([override]) == 2
    assert capsys.readouterr().err.startswith(f"ldm-train: {line}")


def test_a_job_of_a_sweep_keeps_its_null_groups():
    once = replace_null_groups("train", ["lr_schedule=null", "seed=1"])
    assert replace_null_groups("train", once) == once == ["seed=1", "+without=[lr_schedule]"]


def test_values_that_are_null_are_left_alone():
    given = ["resume=null", "data.buckets=null", "threads=null"]
    assert replace_null_groups("train", given) == given


def test_plans_have_the_groups_of_runs():
    assert default_options("train").items() <= default_options("plan").items()
    with pytest.raises(UserError, match="cluster=null: needs one"):
        replace_null_groups("plan", ["cluster=null"])
