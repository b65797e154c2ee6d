"""The checkpoint from which a run goes on, and its config from there on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.checkpoints.store import CheckpointStore, is_sharded, resumable, state_of
from ldm.checkpoints.training import run_config
from ldm.training.changes import Change, changes, distinct, listed, refuse, undone
from ldm.training.directory import moved
from ldm.utils.errors import UserError

AUTOENCODER = "autoencoder.safetensors"
Point = tuple[Path | None, int]
"""Path of a checkpoint and its step; None, 0 for a new start."""
FIRST_STAGE = ("autoencoder", "first_stage", "seed", "trainer", "callbacks", "logger")
"""Keys that matter to a first stage."""


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """The checkpoint and config with which a run goes on.

    Args:
        config: of the run, as it acts in its directory.
        point: path of the diffusion model's checkpoint and its step; None, 0 for a new start.
        step: since which the changes are.
        changes: of the config, those that act.
        notes: lines about changes.
    """

    config: dict[str, Any]
    point: Point = (None, 0)
    step: int = 0
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()


def resumption(config: dict[str, Any], directory: Path) -> Resumption:
    """The checkpoint and config with which a run goes on in its directory; nothing is written.

    Args:
        config: of the run.
        directory: of the run.

    Raises: UserError for a change that the checkpoint does not allow, or a folder that `resume` does not fit.
    """
    config = moved(config, directory)
    path, step = (None, 0) if config["task"] is None else starting_point(config["resume"], directory)
    if path is not None:
        if is_sharded(path) and not is_sharding(config["trainer"]):
            raise UserError(f"{path} is sharded: go on with trainer=fsdp", "resume")
        return compared(config, directory, "latent diffusion", path, step)
    if config["first_stage"]["task"] is not None:
        path, step = starting_point(config["resume"], directory / "autoencoder")
        if path is not None:
            return compared(config, directory, "autoencoder", path, step)
    return Resumption(config=config)


def compared(config: dict[str, Any], directory: Path, stage: str, path: Path, step: int) -> Resumption:
    """The resumption of a stage from a checkpoint, by what has changed since.

    Args:
        config: of the run.
        directory: of the run.
        stage: "autoencoder" or "latent diffusion".
        path: of the checkpoint, its file or folder.
        step: of the checkpoint.

    Raises: UserError for a change that the checkpoint does not allow.
    """
    folder = path if path.is_dir() else path.parent
    diffusion = stage == "latent diffusion"
    point = (path, step) if diffusion else (None, 0)
    before = run_config(path)
    if before is None:
        note = f"{folder} holds no config: changes of the settings since then are not known"
        return Resumption(config=config, point=point, notes=(note,))
    found = changes(moved(before, directory), config)
    if not diffusion:
        found = [change for change in found if change.key.partition(".")[0] in FIRST_STAGE]
    home = directory if diffusion else directory / "autoencoder"
    refuse(distinct(found), folder, branches=folder.resolve().parents[1] != home.resolve())
    ended = {"autoencoder"} if diffusion or (directory / AUTOENCODER).is_file() else set()
    if step >= planned_steps(config, stage):
        ended.add(stage)
    idle = [change for change in found if change.trains and _stage_of(change.key) in ended]
    acting = tuple(distinct([change for change in found if change not in idle]))
    notes = list(_notes(config, stage, step, acting, distinct(idle)))
    config = undone(config, idle)
    if stage in ended:  # the steps that were made, whatever was planned before
        key = "trainer" if diffusion else "first_stage"
        config = config | {key: config[key] | {"max_steps": step}}
    return Resumption(config=config, point=point, step=step, changes=acting, notes=tuple(notes))


def planned_steps(config: dict[str, Any], stage: str) -> int:
    """Optimizer steps of a stage."""
    return int((config["first_stage"] if stage == "autoencoder" else config["trainer"])["max_steps"])


def is_sharding(trainer: dict[str, Any]) -> bool:
    """True for the config of a trainer that shards the model (trainer=fsdp)."""
    strategy = trainer["strategy"]
    return isinstance(strategy, dict) and bool(strategy.get("shard"))


def _stage_of(key: str) -> str:
    return "autoencoder" if key.startswith("first_stage.") else "latent diffusion"


def _notes(
    config: dict[str, Any], stage: str, step: int, acting: Sequence[Change], idle: Sequence[Change]
) -> Iterator[str]:
    """Lines about changes that act and changes that come too late."""
    if acting:
        yield f"{stage}: changed since step {step}, and acting from here on: {listed(acting)}"
    key = "first_stage.max_steps" if stage == "autoencoder" else "trainer.max_steps"
    steps = planned_steps(config, stage)
    if steps < step:
        yield (
            f"{key}={steps} is below step {step}, which the checkpoint is of: nothing is trained, and model, "
            f"config and report are of {step} steps"
        )
    if late := [change for change in idle if change.key.startswith("first_stage.")]:
        yield f"the autoencoder is trained already, so these change nothing: {listed(late)}"
    steps_of = (key, "lr_schedule.total_images")
    if late := [c for c in idle if not c.key.startswith("first_stage.") and c.key not in steps_of]:
        yield (
            f"{stage} has ended at step {step}, so these change nothing: {listed(late)}; {key} above {step} "
            "trains on"
        )


def starting_point(resume: str, folder: Path) -> Point:
    """The checkpoint from which training goes on in a folder and its step; None, 0 for a new start.

    Args:
        resume: "auto" for the newest in the folder, "never" to refuse one, or the path of a checkpoint.
        folder: of the stage.

    Raises: UserError if the folder has checkpoints that the training would overwrite.
    """
    store = CheckpointStore(folder / "checkpoints")
    run = resumed_run(resume)
    if run is not None and (run.name == "autoencoder") == (folder.name == "autoencoder"):
        path, step = resumable(Path(resume))
        if (later := max(store.steps(), default=-1)) > step:
            if run != folder.resolve() and (own := _own_branch(resume, store)) is not None:
                return own
            raise UserError(
                f"{folder} goes on to step {later}: choose another run directory to branch off at step "
                f"{step}, or remove its later checkpoints",
                "resume",
            )
        return path, step
    if store.steps() and resume == "never":
        raise UserError(f"{folder} has checkpoints and resume=never; choose another run directory", "resume")
    newest = store.newest()
    return (None, 0) if newest is None else (state_of(store.path(newest)), newest)


def _own_branch(resume: str, store: CheckpointStore) -> Point | None:
    """The newest checkpoint of a folder if it was branched off the same one: the command is given again."""
    if (newest := store.newest()) is None:
        return None
    path = state_of(store.path(newest))
    before = run_config(path) or {}
    same = Path(str(before.get("resume"))).resolve() == Path(resume).resolve()
    return (path, newest) if same else None


def resumed_run(resume: str) -> Path | None:
    """Directory of the run, or of its first stage, with the checkpoint that `resume` names."""
    if resume in ("auto", "never"):
        return None
    path, _ = resumable(Path(resume))
    return (path if path.is_dir() else path.parent).resolve().parents[1]
