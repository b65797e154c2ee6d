"""The fate of each config key when a run is resumed: one table, which docs/checkpoints.md repeats."""

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache


class Fate(IntEnum):
    """Consequence of a change on resume, the stricter the larger."""

    ACTS = 0
    BRANCH = 1
    START = 2


MEANING = {
    Fate.ACTS: "may change; acts from the checkpoint on",
    Fate.BRANCH: "branch only: `resume=PATH` in a new directory",
    Fate.START: "may not change: `init_checkpoint=PATH` starts a new run from the weights",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Keys that have one fate.

    Args:
        title: subject of the keys.
        keys: dotted keys; `KEY.*` is a node with all that is below it.
        fate: of a change.
        trains: the keys concern training only: they change nothing once the last step is made.
    """

    title: str
    keys: tuple[str, ...]
    fate: Fate
    trains: bool = True

    def matches(self, key: str) -> bool:
        """True for a key of the row."""
        return any(re.fullmatch(_pattern(name), key) for name in self.keys)


def _pattern(name: str) -> str:
    """Regular expression of a key or node."""
    return rf"{re.escape(name[:-2])}(\..*)?" if name.endswith(".*") else re.escape(name)


TABLE = (
    Row(
        title="learning rate, its schedule, weight decay",
        keys=(
            *(
                "optimizer.lr",
                "optimizer.weight_decay",
                "optimizer.betas",
                "optimizer.eps",
                "optimizer.fused",
            ),
            *("optimizer.foreach", "optimizer._partial_", "lr_schedule.*"),
        ),
        fate=Fate.ACTS,
    ),
    Row(
        title="steps, accumulation, precision",
        keys=(
            *("trainer.max_steps", "trainer.max_epochs", "trainer.accumulate_grad_batches"),
            *("trainer.gradient_clip_val", "trainer.precision", "first_stage.max_steps"),
        ),
        fate=Fate.ACTS,
    ),
    Row(
        title="logging, validation, grids, checkpoints",
        keys=(
            *("callbacks.*", "logger.*", "trainer.log_every_n_steps", "trainer.check_val_every_n_epoch"),
            *("trainer.val_check_interval", "trainer.num_sanity_val_steps", "trainer.enable_checkpointing"),
            *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.default_root_dir"),
            *("trainer.use_distributed_sampler", "trainer.detect_anomaly", "trainer.profiler"),
        ),
        fate=Fate.ACTS,
    ),
    Row(
        title="ranks, workers, caches, memory",
        keys=(
            *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy.*"),
            "trainer._target_",
            *("data.num_workers", "data.cache", "data.cache_gigabytes", "data.index", "data.digest"),
            "data.bad_samples",
            *("data.max_bad_fraction", "data.max_pixels", "data.download", "task.cache_latents"),
            *("task.activation_checkpointing", "task.compile"),
        ),
        fate=Fate.ACTS,
        trains=False,
    ),
    Row(
        title="samples, evaluation, names and places",
        keys=(
            *("evaluation.*", "prompts", "sampling.*", "scheduler.*", "timesteps.*", "thresholding.*"),
            *("guidance.*", "weak_checkpoint", "name", "threads", "paths.*", "resume", "dry_run"),
            "first_stage.checkpoint",  # compared by its weights
        ),
        fate=Fate.ACTS,
        trains=False,
    ),
    Row(
        title="place of the data, such as a folder of the job's own; the data must be the same",
        keys=("data.root", "data.shards", "data.folder", "data.embeddings"),
        fate=Fate.ACTS,
    ),
    Row(
        title="which images, in which order, and all random draws",
        keys=(
            *("seed", "data._target_"),
            *("data.image_size", "data.subset", "data.hold_out", "data.held_out_pairs", "data.backgrounds.*"),
            *("data.background_probability", "data.validation_fraction", "data.flip", "data.crop"),
            *(
                "data.caption",
                "data.fallback",
                "data.filters.*",
                "data.buckets.*",
                "data.lanes",
                "data.window",
            ),
        ),
        fate=Fate.BRANCH,
        trains=False,
    ),
    Row(
        title="loss and average of the weights",
        keys=(
            *("weighting.*", "time_sampling.*", "time_draws.*", "loss_terms.*", "task.caption_dropout"),
            *("task.sample_posterior", "task.ema_images", "backbone.dropout", "text_encoder.dropout"),
            *("first_stage.whitening", "first_stage.task.l1_weight", "first_stage.task.l2_weight"),
            *("first_stage.task.kl_weight", "first_stage.task.perceptual.*", "first_stage.task.ema_images"),
            *("first_stage.task.perceptual_weight", "first_stage.task.adversarial_weight"),
            *("first_stage.task.adversarial_start", "first_stage.task.gradient_clip"),
        ),
        fate=Fate.BRANCH,
    ),
    Row(
        title="nets",
        keys=(
            *("autoencoder.*", "text_encoder.*", "backbone.*", "adapters.*", "init_checkpoint"),
            *("task._target_", "task", "first_stage.task._target_", "first_stage.task"),
            "first_stage.task.discriminator.*",
        ),
        fate=Fate.START,
    ),
    Row(
        title="what the net predicts",
        keys=("schedule.*", "prediction.*", "diffusion._target_"),
        fate=Fate.START,
    ),
    Row(
        title="what a step is: its images, the optimizer with its other settings, power averages",
        keys=("data.batch_size", "optimizer.*", "task.power_ema"),
        fate=Fate.START,
    ),
)

# Nodes of the first stage whose keys have the fate of the run's.
ALIKE = {"first_stage.task.optimizer": "optimizer", "first_stage.lr_schedule": "lr_schedule"}
# Nodes and values that configs take from elsewhere, by the place of the original.
COPIES = {
    **{f"task.{name}": name for name in ("text_encoder", "backbone", "diffusion", "sampling", "adapters")},
    **{
        f"task.{name}": name
        for name in ("time_sampling", "time_draws", "loss_terms", "optimizer", "lr_schedule")
    },
    **{f"diffusion.{name}": name for name in ("schedule", "prediction", "weighting")},
    **{f"sampling.{name}": name for name in ("scheduler", "timesteps", "thresholding", "guidance")},
    **{f"{name}.seed": "seed" for name in ("task", "data", "first_stage.task", "first_stage.data")},
    "task.batch_size": "data.batch_size",
    "first_stage.task.batch_size": "first_stage.data.batch_size",
    "task.image_size": "data.image_size",
    "first_stage.data": "data",
    "first_stage.task.autoencoder": "autoencoder",
    "first_stage.task.lr_schedule": "first_stage.lr_schedule",
    "callbacks.samples.captions": "prompts",
    "evaluation.prompts.captions": "prompts",
}


def moved_below(key: str, places: dict[str, str]) -> str:
    """A key below the place that stands for its own in a mapping of nodes; the key itself if none does."""
    for node, place in places.items():
        if key == node or key.startswith(f"{node}."):
            return place + key[len(node) :]
    return key


@lru_cache(maxsize=4096)
def original(key: str) -> str:
    """The key from which configs take the value of a key; the key itself if it is one of its own."""
    place = moved_below(key, COPIES)
    return key if place == key else original(place)


@lru_cache(maxsize=4096)
def row_of(key: str) -> Row | None:
    """The row of a key; None for one that stands in none.

    Such a key, as that of a data set in a user's folder, may change in a branch only.
    """
    place = moved_below(original(key), ALIKE)
    return next((row for row in TABLE if row.matches(place)), None)


def fate_of(key: str) -> Fate:
    """The fate of a change of a key."""
    row = row_of(key)
    return Fate.BRANCH if row is None else row.fate


def docs_table() -> str:
    """The table as Markdown."""
    lines = ["| what | on resume | keys |", "|---|---|---|"]
    for row in sorted(TABLE, key=lambda row: row.fate):
        keys = ", ".join(f"`{key}`" for key in row.keys)
        lines.append(f"| {row.title} | {MEANING[row.fate]} | {keys} |")
    return "\n".join(lines)
