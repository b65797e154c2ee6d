"""Training checkpoints of ours as a source of a model."""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from ldm.checkpoints.assemble import Source
from ldm.checkpoints.native import config_of, own_names
from ldm.checkpoints.store import REST, files_of
from ldm.checkpoints.tensors import TRAINING, TensorFiles, load_archive
from ldm.models.lora import Update

FORMAT = "ldm-training"


def training_metadata(
    config: dict[str, Any], autoencoder: str | None, run: str = "", base: str | None = None
) -> dict[str, str]:
    """Metadata of a training checkpoint.

    Args:
        config: of the model in training, plain types only; with a node "adapters" if adapters are trained.
        autoencoder: path of the frozen first stage, which is not in the checkpoint; relative to the run.
        run: the config of the whole run, as YAML.
        base: of fine-tuning, the checkpoint that the run started from; nets that it does not train are there.
    """
    metadata = {"format": FORMAT, "config": json.dumps(config), "autoencoder": autoencoder or "", "run": run}
    return metadata | ({"base": base} if base else {})


def run_config(path: Path) -> dict[str, Any] | None:
    """The config of the run that a training checkpoint is of; None if it holds none.

    Args:
        path: of the checkpoint, its file or, if it is sharded, its folder.
    """
    loaded = load_archive(path / REST if path.is_dir() else path)
    metadata = loaded.get(TRAINING) if isinstance(loaded, Mapping) else None
    text = metadata.get("run") if isinstance(metadata, Mapping) else None
    config = yaml.safe_load(text) if isinstance(text, str) else None
    return config if isinstance(config, dict) else None


def is_training_checkpoint(files: TensorFiles) -> bool:
    """True for a file saved by `ldm-train`'s diffusion stage."""
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
    base, prefix = files.metadata.get("base"), "ema." if ema else "nets."
    if (node := config.pop("adapters", None)) is not None:
        updates = stored_updates(files, node, prefix)
        return Source(path=path, config=config, files={}, names=own_names, base=base, updates=updates)
    files.rename(lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None)
    trained = {name.partition(".")[0] for name in files.shapes}
    parts = {name: files for name in trained}
    if files.metadata.get("autoencoder"):
        folder = path if path.is_dir() else path.parent
        first = folder.resolve().parents[1] / files.metadata["autoencoder"]
        if not first.is_file():
            raise FileNotFoundError(f"the first stage of {path} is not at {first}")
        parts["autoencoder"] = stack.enter_context(TensorFiles([first]))
        parts["autoencoder"].rename(lambda name: name if name.startswith("autoencoder.") else None)
    return Source(path=path, config=config, files=parts, names=own_names, base=base)


def trained_tensors(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors of a training checkpoint, whether it is one file or sharded, read without a process group.

    Raises: KeyError if it lacks one.
    """
    with TensorFiles(files_of(path)) as files:
        return {name: files.get(name) for name in names}


def stored_updates(files: TensorFiles, node: Mapping[str, Any], prefix: str) -> dict[str, Update]:
    """Weight updates of the backbone's layers by the adapters in a checkpoint.

    Args:
        files: the checkpoint, opened.
        node: config of the adapters: rank and alpha.
        prefix: "ema." or "nets.".
    """
    scale, home = float(node["alpha"]) / int(node["rank"]), f"{prefix}backbone."
    layers = [n.removeprefix(home)[:-2] for n in files.shapes if n.startswith(home) and n.endswith(".A")]
    return {
        layer: Update(down=files.get(f"{home}{layer}.A"), up=files.get(f"{home}{layer}.B"), scale=scale)
        for layer in layers
    }
