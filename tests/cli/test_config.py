"""check_targets refuses every mistake by its key; build builds."""

import pytest
from omegaconf import OmegaConf

from ldm.cli.config import ConfigError, build, check_targets, did_you_mean

ADAMW = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1.0e-3}
CONV = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": 3}


def check(**nodes):
    check_targets(OmegaConf.create(nodes))


def test_good_nodes_pass():
    check(a=ADAMW, b=[CONV], c={"d": {"_target_": "torch.nn.SiLU"}}, plain={"lrr": 1, "none": None})


@pytest.mark.parametrize("partial", [True, False])
def test_unknown_key_is_named_with_its_path_and_the_nearest(partial):
    node = {**ADAMW, "lrr": 1.0, "_partial_": partial}
    with pytest.raises(
        ConfigError, match=r"^task\.optimizer\.lrr: unknown key; did you mean 'lr'\? allowed: "
    ):
        check(task={"optimizer": node})


def test_unknown_key_in_a_list_is_named():
    with pytest.raises(ConfigError, match=r"^nets\.1\.in_chanels: unknown key; did you mean 'in_channels'"):
        check(nets=[CONV, {**CONV, "in_chanels": 3}])


def test_unknown_key_without_a_near_one_lists_what_is_allowed():
    with pytest.raises(ConfigError, match=r"^a\.zzz: unknown key; allowed: approximate$"):
        check(a={"_target_": "torch.nn.GELU", "zzz": 1})


def test_open_ended_target_takes_any_key():
    check(a={"_target_": "ldm.cli.config.build", "node": {}, "anything": 1})


def test_missing_argument_is_named_unless_partial_or_supplied():
    node = {k: v for k, v in CONV.items() if k != "kernel_size"}
    with pytest.raises(ConfigError, match=r"^net\.kernel_size: missing; torch\.nn\.Conv2d needs it$"):
        check(net=node)
    check(net={**node, "_partial_": True})
    check_targets({"net": node}, supplied={"net": ["kernel_size"]})


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "torch.load", "ldmx.y", "torch.hub.load", 3, None]
)
def test_foreign_target_is_refused(target):
    with pytest.raises(ConfigError, match=r"^a\._target_: .* is not allowed; targets start with ldm\., "):
        check(a={"_target_": target})


def test_foreign_target_behind_an_allowed_module_is_refused():
    with pytest.raises(ConfigError, match=r"^a\._target_: .* is not a class or function of"):
        check(a={"_target_": "ldm.cli.app.os.system", "command": "true"})


def test_misspelt_target_gets_the_nearest_name():
    with pytest.raises(ConfigError, match=r"not found; did you mean 'torch\.optim\.AdamW'\?$"):
        check(a={"_target_": "torch.optim.AdamWW"})


def test_no_object_is_nested_under_partial():
    with pytest.raises(ConfigError, match=r"^a\.node\.b: no object may be nested under _partial_ \(a\)$"):
        check(a={"_target_": "ldm.cli.config.build", "_partial_": True, "node": {"b": CONV}})


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
    with pytest.raises(ConfigError, match=f"^{message}"):
        check(a=node)


def test_integer_is_a_float():
    check(a={**ADAMW, "lr": 1})


def test_missing_value_and_bad_interpolation_are_named():
    with pytest.raises(ConfigError, match=r"^data\.root: needs a value \(data\.root=\.\.\.\)$"):
        check(data={"root": "???"})
    with pytest.raises(ConfigError, match=r"^a\.b: Interpolation key 'nope' not found$"):
        check(a={"b": "${nope}"})


def test_interpolated_value_is_checked():
    with pytest.raises(ConfigError, match=r"^a\.lr: must be float"):
        check(a={**ADAMW, "lr": "${speed}"}, speed="fast")


def test_build_converts_and_passes_live_objects_untouched():
    live = [object()]
    made = build(
        OmegaConf.create({"_target_": "ldm.cli.config.did_you_mean", "word": "b"}), options=["bb", "c"]
    )
    assert made == "; did you mean 'bb'?"
    node = OmegaConf.create({"_target_": "torch.optim.AdamW", "_partial_": True, "betas": [0.9, 0.99]})
    partial = build(node)
    assert partial.keywords == {"betas": [0.9, 0.99]}
    assert type(partial.keywords["betas"]) is list
    sequential = build(OmegaConf.create({"_target_": "torch.nn.Module"}))
    again = build({"_target_": "torch.nn.Identity"}, anything=live)
    assert type(sequential).__name__ == "Module"
    assert type(again).__name__ == "Identity"


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
