"""Training checkpoints of ours as a source of a model."""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.checkpoints.assemble import Source
from ldm.checkpoints.native import config_of, own_names
from ldm.checkpoints.store import files_of
from ldm.checkpoints.tensors import TensorFiles

FORMAT = "ldm-training"


def training_metadata(config: dict[str, Any], autoencoder: str | None, run: str = "") -> dict[str, str]:
    """What a training checkpoint says of itself.

    Args:
        config: of the model in training, plain types only.
        autoencoder: path of the frozen first stage, which is not in the checkpoint; relative to the run.
        run: the config of the whole run, as YAML.
    """
    return {"format": FORMAT, "config": json.dumps(config), "autoencoder": autoencoder or "", "run": run}


def is_training_checkpoint(files: TensorFiles) -> bool:
    """Whether a file was saved by `ldm-train`'s diffusion stage."""
    return files.metadata.get("format") == FORMAT


def training_source(path: Path, files: TensorFiles, stack: ExitStack, ema: bool) -> Source:
    """Config, files and names of the model in training.

    Args:
        path: of the checkpoint, RUN/checkpoints/step_NUMBER/state.ckpt, or of its folder if it is sharded.
        files: it, opened.
        stack: keeps the first stage's file open.
        ema: take the EMA weights, not those in training.

    Raises: FileNotFoundError if the first stage is not where the run left it.
    """
    config = config_of(files.metadata | {"format": "ldm"})
    assert config is not None
    prefix = "ema." if ema else "nets."
    files.rename(lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None)
    trained = {name.partition(".")[0] for name in files.shapes}
    parts = {name: files for name in trained}
    if files.metadata.get("autoencoder"):
        folder = path if path.is_dir() else path.parent
        first = folder.resolve().parents[1] / files.metadata["autoencoder"]
        if not first.is_file():
            raise FileNotFoundError(f"the first stage of {path} is not at {first} (checkpoint)")
        parts["autoencoder"] = stack.enter_context(TensorFiles([first]))
        parts["autoencoder"].rename(lambda name: name if name.startswith("autoencoder.") else None)
    return Source(path=path, config=config, files=parts, names=own_names)


def trained_tensors(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors of a training checkpoint, whether it is one file or sharded, read without a process group.

    Raises: KeyError if it lacks one.
    """
    with TensorFiles(files_of(path)) as files:
        return {name: files.get(name) for name in names}
