"""The checkpoint from which a stage of a run goes on."""

from pathlib import Path

from ldm.checkpoints.store import CheckpointStore, resumable, state_of
from ldm.utils.errors import UserError


def starting_point(resume: str, folder: Path) -> tuple[Path | None, int]:
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


def resumed_run(resume: str) -> Path | None:
    """Directory of the run, or of its first stage, with the checkpoint that `resume` names."""
    if resume in ("auto", "never"):
        return None
    path, _ = resumable(Path(resume))
    return (path if path.is_dir() else path.parent).resolve().parents[1]
