"""Where a run goes on, and what of its config may have changed since.

Checkpoints here hold nothing but the config of their run.
"""

import copy

import pytest

from ldm.checkpoints.store import CheckpointStore
from ldm.checkpoints.tensors import TRAINING
from ldm.cli.compose import compose
from ldm.training.directory import moved, to_yaml
from ldm.training.resume import is_sharding, resumed_run, resumption, starting_point
from ldm.utils.errors import UserError


def stage(folder, *steps):
    """A folder with checkpoints of some steps."""
    store = CheckpointStore(folder / "checkpoints", keep=10)
    for step in steps:
        store.save(step, {"global_step": step})
    return folder


def test_a_new_folder_starts_at_zero(tmp_path):
    assert starting_point("auto", tmp_path) == (None, 0)
    assert starting_point("never", tmp_path) == (None, 0)


def test_a_folder_goes_on_at_its_newest_checkpoint(tmp_path):
    path, step = starting_point("auto", stage(tmp_path, 3, 6))
    assert step == 6
    assert path.parent == tmp_path / "checkpoints" / "step_00000006"


def test_never_refuses_a_folder_with_checkpoints(tmp_path):
    with pytest.raises(UserError, match="has checkpoints and resume=never"):
        starting_point("never", stage(tmp_path, 3))


def test_a_named_checkpoint_starts_another_run(tmp_path):
    old = stage(tmp_path / "old", 3, 6)
    named = str(old / "checkpoints" / "step_00000003")
    assert resumed_run(named) == old
    assert starting_point(named, tmp_path / "new")[1] == 3
    assert starting_point(named, tmp_path / "new" / "autoencoder") == (None, 0)  # it is of the other stage


def test_a_named_checkpoint_of_the_first_stage_starts_the_first_stage(tmp_path):
    old = stage(tmp_path / "old" / "autoencoder", 4)
    named = str(old / "checkpoints" / "step_00000004")
    assert starting_point(named, tmp_path / "new" / "autoencoder")[1] == 4
    assert starting_point(named, tmp_path / "new") == (None, 0)


def test_later_checkpoints_are_not_overwritten(tmp_path):
    old = stage(tmp_path, 3, 6)
    with pytest.raises(UserError, match="goes on to step 6"):
        starting_point(str(old / "checkpoints" / "step_00000003"), old)


def test_a_branch_goes_on_where_the_same_command_left_it(tmp_path):
    old = stage(tmp_path / "old", 3, 6)
    named = str(old / "checkpoints" / "step_00000003")
    branch = CheckpointStore(tmp_path / "new" / "checkpoints")
    branch.save(5, {TRAINING: {"run": to_yaml({"resume": named})}})
    assert starting_point(named, tmp_path / "new")[1] == 5
    with pytest.raises(UserError, match="goes on to step 5"):
        starting_point(
            str(old / "checkpoints" / "step_00000003" / ".." / "step_00000003/state.ckpt"), tmp_path / "new"
        )


@pytest.fixture(scope="module")
def tiny():
    return compose("train", ["experiment=tiny", "paths.run=/runs/r", "trainer.max_steps=20"])


def saved(config, folder, step):
    """A run directory with a checkpoint of a stage."""
    CheckpointStore(folder / "checkpoints").save(step, {TRAINING: {"run": to_yaml(config)}})


def changed(config, **values):
    """The config with other values; of `data__flip` for data.flip, in all places that copy it."""
    config = copy.deepcopy(config)
    for place, value in values.items():
        *path, name = place.split("__")
        node = config
        for part in path:
            node = node[part]
        node[name] = value
    return config


REFUSED = {
    "backbone.channels": {"backbone__channels": [16], "task__backbone__channels": [16]},
    "text_encoder.width": {"text_encoder__width": 64},
    "autoencoder.channels": {"autoencoder__channels": [8]},
    "schedule._target_": {"schedule___target_": "ldm.diffusion.schedule.linear"},
    "prediction._target_": {"prediction___target_": "ldm.diffusion.prediction.Epsilon"},
    "data.batch_size": {"data__batch_size": 24, "task__batch_size": 24},
    "first_stage.data.batch_size": {"first_stage__data__batch_size": 24},
    "data.image_size": {"data__image_size": 32, "task__image_size": 32},
    "data._target_": {"data___target_": "ldm.data.emoji.EmojiData"},
    "data.flip": {"data__flip": 0.5},
    "data.of_a_user": {"data__of_a_user": 1},
    "seed": {"data__seed": 1, "seed": 1, "task__seed": 1},
    "optimizer._target_": {"optimizer___target_": "torch.optim.SGD"},
    "optimizer.amsgrad": {"optimizer__amsgrad": True},
    "task.power_ema": {"task__power_ema": [0.05]},
    "task.ema_images": {"task__ema_images": 100},
    "task.caption_dropout": {"task__caption_dropout": 0.2},
    "weighting": {"weighting": {"_target_": "ldm.diffusion.weighting.MinSNR", "gamma": 5.0}},
    "adapters": {"adapters": {"_target_": "ldm.models.lora.LoRA", "rank": 4}},
    "init_checkpoint": {"init_checkpoint": "sd15.safetensors"},
    "first_stage.task.kl_weight": {"first_stage__task__kl_weight": 1.0},
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_may_not_change_in_a_directory_is_refused_by_its_key(key, tiny, tmp_path):
    saved(tiny, tmp_path, 20)
    now = changed(tiny, **REFUSED[key])
    if key == "weighting":
        tiny = tiny | {"weighting": None}
        saved(tiny, tmp_path, 20)
    with pytest.raises(UserError, match="cannot change on resume from") as caught:
        resumption(now, tmp_path)
    assert caught.value.key == key
    assert "another hydra.run.dir" in str(caught.value)


def test_all_refused_changes_are_named_the_gravest_first(tiny, tmp_path):
    saved(tiny, tmp_path, 20)
    now = changed(tiny, seed=1, data__flip=0.5, prediction___target_="ldm.diffusion.prediction.Epsilon")
    with pytest.raises(
        UserError, match=r"prediction\._target_: .* \(nor .*seed from 0 to 1.*\): leave it as it was"
    ):
        resumption(now, tmp_path)


def test_a_branch_may_change_what_does_not_concern_the_nets(tiny, tmp_path):
    saved(tiny, tmp_path / "old", 20)
    named = {"resume": str(tmp_path / "old"), "trainer__max_steps": 30}
    found = resumption(changed(tiny, seed=1, data__flip=0.5, **named), tmp_path / "new")
    assert found.point[1] == found.step == 20
    assert {change.key for change in found.changes} == {"seed", "data.flip", "trainer.max_steps"}
    with pytest.raises(UserError, match=r"backbone\.channels: cannot"):
        resumption(changed(tiny, backbone__channels=[8], **named), tmp_path / "new")
    with pytest.raises(UserError, match=r"data\.batch_size: cannot"):
        resumption(changed(tiny, data__batch_size=24, **named), tmp_path / "new")


def test_what_acts_is_in_one_line_and_in_the_config(tiny, tmp_path):
    saved(tiny, tmp_path, 10)
    lr = {"optimizer__lr": 1e-4, "task__optimizer__lr": 1e-4}
    now = changed(tiny, threads=3, data__num_workers=2, **lr)
    found = resumption(now, tmp_path)
    assert found.config == moved(now, tmp_path)
    (note,) = found.notes
    assert note.startswith("latent diffusion: changed since step 10, and acting from here on: ")
    changes = {"threads from null to 3", "data.num_workers from 0 to 2", "optimizer.lr from 0.003 to 0.0001"}
    assert set(note.partition("here on: ")[2].split(", ")) == changes


def test_without_changes_nothing_is_said(tiny, tmp_path):
    saved(tiny, tmp_path, 10)
    found = resumption(tiny, tmp_path)
    assert (found.config, found.notes) == (moved(tiny, tmp_path), ())
    assert (found.changes, found.point[1]) == ((), 10)


def test_a_run_that_was_moved_has_not_changed(tiny, tmp_path):
    saved(tiny, tmp_path / "r", 10)
    assert resumption(moved(tiny, tmp_path / "r"), tmp_path / "r").notes == ()


def test_after_the_last_step_settings_of_training_come_too_late(tiny, tmp_path):
    saved(tiny, tmp_path, 20)
    found = resumption(changed(tiny, optimizer__lr=1.0, sampling__num_inference_steps=7), tmp_path)
    assert found.config["optimizer"]["lr"] == tiny["optimizer"]["lr"]
    assert found.config["sampling"]["num_inference_steps"] == 7
    assert [str(change) for change in found.changes] == ["sampling.num_inference_steps from 10 to 7"]
    assert any(
        "latent diffusion has ended at step 20, so these change nothing: optimizer.lr" in x
        for x in found.notes
    )


def test_fewer_steps_than_were_made_are_said_and_recorded_as_made(tiny, tmp_path):
    saved(changed(tiny, trainer__max_steps=100), tmp_path, 20)  # stopped long before its end
    found = resumption(changed(tiny, trainer__max_steps=10), tmp_path)
    assert found.config["trainer"]["max_steps"] == 20
    assert any(note.startswith("trainer.max_steps=10 is below step 20") for note in found.notes)


def test_a_first_stage_is_compared_by_what_concerns_it(tiny, tmp_path):
    saved(tiny, tmp_path / "autoencoder", 5)
    found = resumption(changed(tiny, backbone__channels=[8], first_stage__max_steps=50), tmp_path)
    assert found.point == (None, 0)
    assert [change.key for change in found.changes] == ["first_stage.max_steps"]
    for place in ("first_stage__task__kl_weight", "autoencoder__latent_channels", "seed"):
        with pytest.raises(UserError, match="cannot change on resume"):
            resumption(changed(tiny, **{place: 7}), tmp_path)


def test_settings_of_a_first_stage_that_is_trained_come_too_late(tiny, tmp_path):
    saved(tiny, tmp_path / "autoencoder", 40)
    (tmp_path / "autoencoder.safetensors").touch()
    found = resumption(changed(tiny, first_stage__max_steps=50), tmp_path)
    assert found.config["first_stage"]["max_steps"] == 40
    assert found.notes == (
        "the autoencoder is trained already, so these change nothing: first_stage.max_steps from 40 to 50",
    )


def test_a_checkpoint_without_config_says_so(tiny, tmp_path):
    stage(tmp_path, 3)
    (note,) = resumption(tiny, tmp_path).notes
    assert "holds no config" in note


@pytest.mark.parametrize(
    ("strategy", "expected"), [("auto", False), ({"shard": False}, False), ({"shard": True}, True)]
)
def test_a_trainer_shards_if_its_strategy_does(strategy, expected):
    assert is_sharding({"strategy": strategy}) is expected


def test_a_sharded_checkpoint_needs_a_trainer_that_shards(tiny, tmp_path):
    def fill(folder):
        (folder / "rest.ckpt").touch()
        return {}

    CheckpointStore(tmp_path / "checkpoints").add(3, fill)
    with pytest.raises(UserError, match="is sharded: go on with trainer=fsdp"):
        resumption(tiny, tmp_path)
