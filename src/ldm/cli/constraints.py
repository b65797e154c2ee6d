"""Constraints between distant keys of a config: each returns what is wrong, naming the keys, or None.

A constraint whose keys are absent is silent. A new constraint is a function added to `CONSTRAINTS`.
"""

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.utils.errors import UserError

Constraint = Callable[[DictConfig], str | None]


def _first(cfg: DictConfig, *keys: str) -> tuple[str, Any]:
    """The first of the keys that holds a value, with that value; ("", None) when none does."""
    for key in keys:
        value = OmegaConf.select(cfg, key)
        if value is not None:
            return key, value
    return "", None


def _target(cfg: DictConfig, key: str) -> str:
    """The last part of a node's `_target_`, or an empty string."""
    value = OmegaConf.select(cfg, f"{key}._target_")
    return str(value or "").rpartition(".")[2]


def eps_needs_noise_below_one(cfg: DictConfig) -> str | None:
    """With zero terminal SNR x_t holds no x0, so eps says nothing about it (Lin et al. 2023)."""
    schedule_key, schedule = _first(cfg, "schedule", "diffusion.schedule")
    prediction_key, prediction = _first(cfg, "prediction", "diffusion.prediction")
    if schedule is None or prediction is None:
        return None
    if (
        _target(cfg, schedule_key) in ("zero_snr", "FlowMatching")
        and _target(cfg, prediction_key) == "Epsilon"
    ):
        return (
            f"{prediction_key}: eps cannot be used with the zero terminal SNR of {schedule_key}; "
            "use v or x0, or another schedule"
        )
    return None


def latent_channels_fit(cfg: DictConfig) -> str | None:
    """The backbone reads and writes as many channels as the autoencoder's latents have.

    An inpainting net also reads the mask and the latents of the masked image; no task here trains one.
    """
    latent_key, latent = _first(cfg, "autoencoder.latent_channels")
    for key in ("backbone.in_channels", "backbone.out_channels"):
        _, channels = _first(cfg, key)
        if latent is None or channels in (None, latent):
            continue
        inpaints = key == "backbone.in_channels" and channels == 2 * latent + 1
        if not inpaints:
            return f"{key}: must equal {latent_key}={latent}, got {channels}"
        if _first(cfg, "task")[0]:
            return f"{key}: {channels} make an inpainting net, which task=latent_diffusion cannot train"
    return None


def _text_widths(cfg: DictConfig) -> dict[str, Any]:
    """What the text encoder is known to give: context_dim and pooled_dim, None for nothing."""
    kind, (_, width) = _target(cfg, "text_encoder"), _first(cfg, "text_encoder.width")
    if kind == "TinyTextEncoder" and width is not None:
        return {"context_dim": width, "pooled_dim": width}
    if kind == "ClassEncoder" and width is not None:
        return {"context_dim": None, "pooled_dim": width}
    if kind == "NullTextEncoder":
        return {"context_dim": None, "pooled_dim": None}
    if kind == "ClipTextEncoder" and width is not None:
        return {"context_dim": width, "pooled_dim": None}
    return {}


def context_width_fits(cfg: DictConfig) -> str | None:
    """The backbone's cross-attention and pooled embedding are as wide as what the text encoder gives."""
    if not _first(cfg, "backbone.context_dim")[0] and not _first(cfg, "backbone.pooled_dim")[0]:
        return None
    for name, given in _text_widths(cfg).items():
        key, wanted = _first(cfg, f"backbone.{name}")
        if wanted is not None and wanted != given:
            text = f"{_target(cfg, 'text_encoder')} (text_encoder) gives {given or 'none'}"
            return f"{key}: {text}, got {wanted}"
    return None


def batch_divides(cfg: DictConfig) -> str | None:
    """The global batch splits evenly over devices, nodes and accumulated steps."""
    _, batch = _first(cfg, "data.batch_size")
    if not isinstance(batch, int):
        return None
    for key in ("trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches"):
        _, parts = _first(cfg, key)
        if isinstance(parts, int) and parts > 0:
            if batch % parts:
                return (
                    f"data.batch_size: must be a multiple of "
                    f"trainer.devices x num_nodes x accumulate_grad_batches, got {batch} at {key}={parts}"
                )
            batch //= parts
    return None


def guidance_needs_dropout(cfg: DictConfig) -> str | None:
    """Guidance needs the answer to the empty caption, learned by caption dropout (Ho & Salimans 2022)."""
    dropout_key, dropout = _first(cfg, "task.caption_dropout", "caption_dropout")
    scale_key, scale = _first(cfg, "sampling.guidance_scale", "task.sampling.guidance_scale")
    if _target(cfg, "sampling.guidance") == "Autoguidance":
        return None
    if dropout == 0 and scale not in (None, 1):
        return f"{scale_key}: must be 1 when trained without caption dropout ({dropout_key}=0), got {scale}"
    return None


def cached_latents_stay(cfg: DictConfig) -> str | None:
    """A latent that is encoded once is right only if its image is the same at each visit."""
    key, cached = _first(cfg, "task.cache_latents")
    if cfg.get("action") == "precompute":
        key, cached = "action=precompute", True
    for name, value in (
        ("data.flip", _first(cfg, "data.flip")[1]),
        ("data.crop", _first(cfg, "data.crop")[1]),
    ):
        if cached and value not in (None, 0, "centre"):
            wrong = "cannot be" if cfg.get("action") == "precompute" else "must be false"
            return f"{key}: {wrong} where {name}={value} changes an image from visit to visit"
    return None


def latents_need_their_autoencoder(cfg: DictConfig) -> str | None:
    """Latents were made by an autoencoder that exists; one trained in this run would be another."""
    if _target(cfg, "first_stage.data") == "LatentData":
        return "first_stage.data: latents hold no images to train an autoencoder on; use image shards (laion)"
    trains, checkpoint = (_first(cfg, f"first_stage.{key}")[1] for key in ("task", "checkpoint"))
    if _target(cfg, "data") == "LatentData" and trains is not None and checkpoint is None:
        return "first_stage.checkpoint: data=latents needs the autoencoder that they were made by, got none"
    return None


def buckets_fit_the_nets(cfg: DictConfig) -> str | None:
    """Latents of many shapes need a net without a learned position table, and sides that it can halve."""
    buckets_key, buckets = _first(cfg, "data.buckets")
    if buckets is None:
        return None
    key, position = _first(cfg, "backbone.position_size")
    if position is not None:
        return f"{key}: must be null where {buckets_key} gives images of many shapes, got {position}"
    halved = 0
    for name in ("autoencoder.channels", "backbone.channels"):
        halved += max(len(_first(cfg, name)[1] or ()) - 1, 0)
    ruled = isinstance(buckets, DictConfig)
    sides = [buckets.get("multiple", 64)] if ruled else [side for size in buckets for side in size]
    for side in sides:
        if side % 2**halved:
            named = f"{buckets_key}.multiple" if ruled else buckets_key
            return f"{named}: autoencoder and backbone halve the sides {halved} times, got {side}"
    return None


def snapshots_need_averages(cfg: DictConfig) -> str | None:
    """Snapshots are of averages over power functions."""
    key, _ = _first(cfg, "callbacks.ema")
    averages_key, averages = _first(cfg, "task.power_ema")
    if key and averages_key and not averages:
        return f"{averages_key}: must name the averages that {key} is to keep, got none"
    return None


def autoguidance_needs_a_weaker_net(cfg: DictConfig) -> str | None:
    """Autoguidance leads away from what a weaker net says (Karras et al. 2024)."""
    key, _ = _first(cfg, "guidance", "sampling.guidance")
    _, weak = _first(cfg, "weak_checkpoint", "replay")
    if key and _target(cfg, key) == "Autoguidance" and weak is None:
        return f"weak_checkpoint: {key}=autoguidance needs the checkpoint of a weaker net, got none"
    return None


def adapters_need_a_base(cfg: DictConfig) -> str | None:
    """Adapters are trained for the nets of one checkpoint, its autoencoder among them."""
    if not _first(cfg, "adapters._target_")[0]:
        return None
    if _first(cfg, "init_checkpoint")[1] is None:
        return "init_checkpoint: adapters need the checkpoint that they are for, got none"
    key, value = _first(cfg, "first_stage.checkpoint")
    if value is not None:
        return f"{key}: must be null with adapters, which are for all of init_checkpoint, got {value}"
    key, value = _first(cfg, "task.power_ema")
    if value:
        return f"{key}: must be [] with adapters, which ldm-ema cannot add up, got {value} (averages=null)"
    key, sharded = _first(cfg, "trainer.strategy.shard")
    if sharded:
        return f"{key}: adapters and their frozen base are not sharded: use trainer=ddp"
    return None


CONSTRAINTS: tuple[Constraint, ...] = (
    eps_needs_noise_below_one,
    latent_channels_fit,
    context_width_fits,
    batch_divides,
    guidance_needs_dropout,
    cached_latents_stay,
    latents_need_their_autoencoder,
    buckets_fit_the_nets,
    autoguidance_needs_a_weaker_net,
    snapshots_need_averages,
    adapters_need_a_base,
)


def check_constraints(cfg: DictConfig) -> None:
    """Checks all constraints.

    Raises:
        UserError: for the first constraint that the config breaks.
    """
    for constraint in CONSTRAINTS:
        wrong = constraint(cfg)
        if wrong is not None:
            raise UserError(wrong)
