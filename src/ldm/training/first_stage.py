"""The frozen autoencoder of a run: loaded, trained in the run, or used as it is built."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.native import save_model
from ldm.evaluation.metrics.reconstruction import Reconstruction
from ldm.evaluation.score import write_scores
from ldm.training.autoencoder import AutoencoderTraining
from ldm.training.directory import moved, to_yaml
from ldm.training.fit import fit
from ldm.training.resume import AUTOENCODER, resumed_run, starting_point
from ldm.training.summary import Summary
from ldm.utils.construct import construct
from ldm.utils.distributed import is_main
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

FILE = AUTOENCODER

FirstStage = tuple[nn.Module, dict[str, Any]]
"""An autoencoder and its config, with the scaling of its latents."""


def first_stage(
    config: dict[str, Any],
    directory: Path,
    initial: LoadedModel | None,
    data: Any,
    summary: Summary,
    loaded: LoadedModel | None,
) -> FirstStage:
    """The autoencoder in whose latents the diffusion model is trained, and its config.

    Args:
        config: of the run.
        directory: of the run.
        initial: the model that the run starts from.
        data: of the diffusion model, which may hold latents; None if only the autoencoder is trained.
        summary: gets the scores of an autoencoder that is trained.
        loaded: the model that has the autoencoder, if it is not trained here (`loaded_autoencoder`).
    """
    if loaded is not None:
        return stored_in(directory, loaded, data, by_reference=config.get("adapters") is not None)
    node = {key: value for key, value in config["autoencoder"].items() if key != "_partial_"}
    if config["first_stage"]["task"] is not None:
        return train_autoencoder(config, directory, node, initial, summary)
    net = construct(node, "autoencoder")
    if any(True for _ in net.parameters()):
        raise UserError("this autoencoder has weights: give a file or train it", "first_stage.checkpoint")
    return net, node


def loaded_autoencoder(
    config: dict[str, Any], directory: Path, initial: LoadedModel | None
) -> LoadedModel | None:
    """An autoencoder of a file, of the run so far or of the model that the run starts from.

    Raises: UserError if the file has another autoencoder than the run so far.
    """
    given, resumed = config["first_stage"]["checkpoint"], resumed_run(config["resume"])
    # a run that branches off another takes its first stage with it
    places = [directory / FILE, *([] if resumed is None else [resumed / FILE])]
    own = next((path for path in places if path.is_file()), None)
    if given is not None:
        loaded = load_model(Path(given))
        if own is not None:
            check_same_latents(loaded, own)
        return loaded
    if own is not None:
        return load_model(own)
    diffusion = config["task"] is not None
    return initial if diffusion and initial is not None and "autoencoder" in initial.components else None


def check_same_latents(loaded: LoadedModel, own: Path) -> None:
    """Checks that a model has the autoencoder in whose latents a run is trained.

    Args:
        loaded: the model of `first_stage.checkpoint`.
        own: file of the run.

    Raises: UserError if weights or scaling differ.
    """
    mine = load_model(own)
    if "autoencoder" not in loaded.components:
        return  # refused where it is used
    ours, theirs = (model.components["autoencoder"].state_dict() for model in (mine, loaded))
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("scaling_factor", "shift_factor"):
        same = same and mine.config["autoencoder"].get(name) == loaded.config["autoencoder"].get(name)
    if not same:
        raise UserError(
            f"must have the autoencoder of {own}, in whose latents the run is trained; null takes that one",
            "first_stage.checkpoint",
        )


def stored_in(directory: Path, loaded: LoadedModel, data: Any, by_reference: bool) -> FirstStage:
    """A loaded autoencoder, written into the run's directory, which then holds all of its model.

    Args:
        directory: of the run.
        loaded: the model it is part of.
        data: of the diffusion model; latents must be those of this autoencoder.
        by_reference: leave the file out, as adapters do: their base has it.
    """
    net, node, path = loaded.components["autoencoder"], loaded.config["autoencoder"], directory / FILE
    if hasattr(data, "verify"):
        data.verify(net)
    if not path.is_file() and not by_reference and is_main():
        save_model(path, {"autoencoder": net}, {"autoencoder": node})
    return net, node


def train_autoencoder(
    config: dict[str, Any],
    directory: Path,
    node: dict[str, Any],
    initial: LoadedModel | None,
    summary: Summary,
) -> FirstStage:
    """Trains the autoencoder in a folder of its own and writes it with the scaling of its latents.

    Args:
        config: of the run.
        directory: of the run.
        node: config of the autoencoder.
        initial: the model that the run starts from.
        summary: gets the scores.
    """
    stage = config["first_stage"]
    module: AutoencoderTraining = construct(stage["task"], "first_stage.task")
    if initial is not None and config["task"] is None:
        module.start_from(initial.components["autoencoder"])
    data = construct(stage["data"], "first_stage.data")
    if hasattr(data, "check_usable"):
        data.check_usable()
    own = config | {"trainer": trainer_of(stage, config["trainer"])}
    module.run = to_yaml(config)
    start = starting_point(config["resume"], directory / "autoencoder")
    fit(module, data, moved(own, directory / "autoencoder"), summary, start)
    statistics = module.latent_statistics(data.training_images(), stage["whitening"])
    module.ema.set_latent_statistics(statistics["scaling_factor"], statistics["shift_factor"])
    if is_main():
        evaluate(module, data, directory, summary)
        save_model(directory / FILE, {"autoencoder": module.ema}, {"autoencoder": node | statistics})
    return module.ema, node | statistics


def trainer_of(stage: dict[str, Any], trainer: dict[str, Any]) -> dict[str, Any]:
    """Config of the trainer of the first stage, whose module clips and steps itself.

    Args:
        stage: config of the first stage.
        trainer: config of the trainer of the run.
    """
    changed = {"max_steps": stage["max_steps"], "gradient_clip_val": None, "accumulate_grad_batches": 1}
    strategy = trainer["strategy"]
    if isinstance(strategy, dict):
        # the autoencoder is small enough for a copy on each rank; with a discriminator two nets train in turn
        in_turn = stage["task"].get("discriminator") is not None
        changed["strategy"] = strategy | {"shard": False, "copies": None, "find_unused": in_turn}
    return trainer | changed


def evaluate(module: AutoencoderTraining, data: Any, directory: Path, summary: Summary) -> None:
    """Measures the reconstruction of images held out of the training and draws some of them."""
    score = Reconstruction()(module, data, directory)
    write_scores(directory, {"autoencoder": score})
    summary.add(autoencoder={**score.values, "parameters": sum(p.numel() for p in module.net.parameters())})
    log.info("autoencoder: %.2f dB PSNR on %d unseen images", score.values["psnr"], score.values["images"])
