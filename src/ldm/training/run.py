"""A training run from a plain config: first stage, diffusion model, samples, scores and report."""

import logging
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.readable import check_readable
from ldm.checkpoints.training import training_metadata
from ldm.data.shards.datamodule import ShardData
from ldm.evaluation.evaluate import evaluate, summary_of
from ldm.evaluation.report import write_report
from ldm.training.check_model import check_model
from ldm.training.directory import to_yaml, write_config
from ldm.training.distributed.environment import check_launcher
from ldm.training.first_stage import FILE, first_stage, loaded_autoencoder
from ldm.training.fit import constructed, fit
from ldm.training.initial_weights import load_initial, reference, without_pretrained
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.lightning_internals import quieten_lightning
from ldm.training.model_files import complete, model_config, save_trained
from ldm.training.ownership import owned
from ldm.training.resume import Resumption, resumption
from ldm.training.storage import explained
from ldm.training.summary import Summary
from ldm.utils.construct import construct
from ldm.utils.device import set_threads
from ldm.utils.distributed import drop_leftovers, initialised, is_main, launched

log = logging.getLogger(__name__)


def run(config: dict[str, Any], directory: str | Path) -> None:
    """Trains what a config describes and writes model, samples, scores and a report.

    A run goes on where an earlier one in the same directory stopped. Of several processes each calls this.

    Args:
        config: of `ldm-train`, resolved: plain dicts, lists and values.
        directory: for everything that the run writes.

    Raises: UserError for a config that cannot be trained; Failure for a disk that fails; Stopped or
        KeyboardInterrupt for a run that was stopped.
    """
    directory = Path(directory).absolute()
    set_threads(config["threads"])
    quieten_lightning()
    check_ranks(config["trainer"])
    with explained(directory), owned(directory):
        resumed = resumption(config, directory)
        config = resumed.config
        initial = load_initial(config)
        check_model(config, initial)
        nets = config if initial is None else without_pretrained(config)
        data = None if config["task"] is None else checked_data(config, initial)
        loaded = loaded_autoencoder(config, directory, initial)
        summary = begin(resumed, directory)  # nothing is written before
        autoencoder, node = first_stage(config, directory, initial, data, summary, loaded)
        if data is not None:
            stored = model_config(nets, node)
            module = diffusion_model(nets, autoencoder, initial)
            module.metadata = checkpoint_metadata(config, autoencoder, stored)
            del initial  # its nets are as large as those in training
            fit(module, data, config, summary, resumed.point)
            if initialised() or is_main():  # ranks of a finished run do not meet: the first does what is left
                conclude(module, data, config, stored, directory, summary)
        if is_main():
            log.info("report: %s", write_report(directory))


def conclude(
    module: LatentDiffusion,
    data: Any,
    config: dict[str, Any],
    stored: dict[str, Any],
    directory: Path,
    summary: Summary,
) -> None:
    """Writes the model, with `stored` as its config, and scores it."""
    sample_arguments = save_trained(module, stored, config["init_checkpoint"], directory)
    summary.add(**facts(module, data, config, sample_arguments))
    score(module, data, config, directory, summary)


def check_ranks(trainer: dict[str, Any]) -> None:
    """Ignores variables of ranks that no launcher has set; refuses other numbers of ranks than configured."""
    if (note := drop_leftovers(trainer["num_nodes"])) is not None:
        log.warning("%s", note)
    check_launcher(trainer["devices"], trainer["num_nodes"])
    cast(Any, rank_zero_only).rank = launched()[0]  # Lightning has read the variables when it was imported


def begin(resumed: Resumption, directory: Path) -> Summary:
    """The summary of a run whose config and changes are now written down."""
    config = resumed.config
    if is_main():
        for note in resumed.notes:
            log.info("%s", note)
        write_config(config, directory)
    summary = Summary(directory / "summary.json", config["name"])
    if resumed.changes:
        earlier = [entry for entry in summary.facts.get("changes", []) if entry["step"] < resumed.step]
        now = {"step": resumed.step, "changed": [str(change) for change in resumed.changes]}
        summary.add(changes=[*earlier, now])
    return summary


def checked_data(config: dict[str, Any], initial: LoadedModel | None) -> Any:
    """The data of the diffusion model, whose parts are validated before a first stage is trained.

    Raises: UserError if the task cannot be built or the text encoder has no room for the words of the data.
    """
    check_readable(model_config(config, complete(config["autoencoder"])))
    construct(config["task"], "task", autoencoder=nn.Identity())  # its nets are built when training starts
    data = construct(config["data"], "data")
    if hasattr(data, "check_usable"):
        data.check_usable()
    with torch.device("meta"):
        text_encoder = construct(config["text_encoder"], "text_encoder")()
    if initial is None:
        text_encoder.learn_vocabulary(data.captions)
    return data


def diffusion_model(
    config: dict[str, Any], autoencoder: nn.Module, initial: LoadedModel | None
) -> LatentDiffusion:
    """The module that trains the diffusion model, with the nets it starts from and a weaker one for grids."""
    module: LatentDiffusion = construct(config["task"], "task", autoencoder=autoencoder)
    if initial is not None:
        module.start_from(initial.components)
    if config["weak_checkpoint"] is not None:
        weak = load_model(config["weak_checkpoint"]).components
        module.weak = (weak["text_encoder"].eval(), weak["backbone"].eval())
    return module


def checkpoint_metadata(
    config: dict[str, Any], autoencoder: nn.Module, stored: dict[str, Any]
) -> dict[str, str]:
    """The metadata of the run's checkpoints: the model in training, its first stage and its base."""
    has_weights = any(True for _ in autoencoder.parameters()) and "adapters" not in stored
    base = reference(config["init_checkpoint"])
    return training_metadata(stored, FILE if has_weights else None, to_yaml(config), base)


def facts(
    module: LatentDiffusion, data: Any, config: dict[str, Any], sample_arguments: str
) -> dict[str, Any]:
    """The facts about a trained diffusion model for the run's summary."""
    bad_samples = {"bad_samples": data.bad_samples.by_cause()} if isinstance(data, ShardData) else {}
    parameters = sum(p.numel() for p in module.nets.parameters())
    prompts = config["prompts"]
    first = f"num_images={prompts}" if isinstance(prompts, int) else f'prompt="{prompts[0]}"'
    return bad_samples | {
        "latent_diffusion": {"parameters": parameters, "steps": int(config["trainer"]["max_steps"])},
        "sample_command": f"ldm-sample {sample_arguments} {first}",
    }


def score(
    module: LatentDiffusion, data: Any, config: dict[str, Any], directory: Path, summary: Summary
) -> None:
    """Evaluates the model by the metrics of the config; all ranks sample, the first one writes."""
    metrics = constructed(config, "evaluation")
    with summary.timed("samples and scores"), tempfile.TemporaryDirectory() as elsewhere:
        folder = directory if is_main() else Path(elsewhere)
        summary.add(**summary_of(evaluate(module.sampler, data, metrics, folder)))
