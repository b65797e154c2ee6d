"""Constraints between distant values of a config, checked before torch builds anything.

Each constraint returns what is wrong, naming the key, or None; it is silent where its keys are absent. Advice
stands at the end of a message as an override that can be typed: "; use KEY=VALUE". Whether the parts of a
model fit together is checked on the objects themselves (`ldm.training.check_model`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from ldm.utils.construct import construct
from ldm.utils.errors import UserError
from ldm.utils.seeds import as_seeds

Config = Mapping[str, Any]
Constraint = Callable[[Config], str | None]


def _first(config: Config, *keys: str) -> tuple[str, Any]:
    """The first of the dotted keys that holds a value, with that value; ("", None) when none does."""
    for key in keys:
        value: Any = config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            return key, value
    return "", None


def seeds_are_in_range(config: Config) -> str | None:
    """A seed, or each of a list, is a whole number of 64 bits without a sign."""
    try:
        as_seeds(config.get("seed", 0))
    except UserError as error:
        return str(error).replace("seed must", "seed: must")
    return None


def batch_divides(config: Config) -> str | None:
    """The global batch splits evenly over devices, nodes and accumulated steps."""
    _, batch = _first(config, "data.batch_size")
    if not isinstance(batch, int):
        return None
    rest = batch
    for key in ("trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches"):
        _, parts = _first(config, key)
        if isinstance(parts, int) and parts > 0:
            if rest % parts:
                return (
                    f"data.batch_size: must be a multiple of trainer.devices x num_nodes x "
                    f"accumulate_grad_batches, got {batch} at {key}={parts}"
                )
            rest //= parts
    return None


def cached_latents_stay(config: Config) -> str | None:
    """A latent that is encoded once is right only if its image is the same at each visit."""
    precomputes = config.get("action") == "precompute"
    key, cached = ("action", True) if precomputes else _first(config, "task.cache_latents")
    if not cached:
        return None
    for name, neutral in (("data.flip", "0.0"), ("data.crop", "centre")):
        _, value = _first(config, name)
        if value not in (None, 0, "centre"):
            advice = f"{name}={neutral}" if precomputes else "task.cache_latents=false"
            return (
                f"{key}: latents cannot be stored where {name}={value} changes an image from visit to visit; "
                f"use {advice}"
            )
    return None


def snapshots_need_averages(config: Config) -> str | None:
    """Snapshots are of averages over power functions."""
    key, _ = _first(config, "callbacks.ema")
    averages_key, averages = _first(config, "task.power_ema")
    if key and averages_key and not averages:
        return f"{averages_key}: {key} stores averages over power functions, got none; use averages=power"
    return None


def autoguidance_needs_a_weaker_net(config: Config) -> str | None:
    """Autoguidance extrapolates from the output of a weaker net (Karras et al. 2024)."""
    key, node = _first(config, "guidance", "sampling.guidance")
    _, weak = _first(config, "weak_checkpoint", "replay")
    if not key or weak is not None or "_target_" not in node:  # settings without an option: no rule
        return None
    rule = construct(node, key)
    if "weak_checkpoint" in rule.needs:
        name = type(rule).__name__
        return f"weak_checkpoint: guidance {name} needs the checkpoint of a weaker net, got none"
    return None


def adapters_need_a_base(config: Config) -> str | None:
    """Adapters are trained for the nets of one checkpoint, its autoencoder among them."""
    if _first(config, "adapters")[1] is None:
        return None
    if _first(config, "init_checkpoint")[1] is None:
        return "init_checkpoint: adapters need the checkpoint that they are for, got none"
    key, value = _first(config, "first_stage.checkpoint")
    if value is not None:
        return f"{key}: adapters use the autoencoder of init_checkpoint, got {value}; use {key}=null"
    key, value = _first(config, "task.power_ema")
    if value:
        return f"{key}: ldm-ema cannot add up averages of adapters, got {value}; use averages=null"
    key, sharded = _first(config, "trainer.strategy.shard")
    if sharded:
        return f"{key}: adapters and their frozen base are not sharded; use trainer=ddp"
    return None


CONSTRAINTS: tuple[Constraint, ...] = (
    seeds_are_in_range,
    batch_divides,
    cached_latents_stay,
    autoguidance_needs_a_weaker_net,
    snapshots_need_averages,
    adapters_need_a_base,
)


def check_constraints(config: Config) -> None:
    """Checks all constraints.

    Raises: UserError for the first one that the config breaks.
    """
    for constraint in CONSTRAINTS:
        wrong = constraint(config)
        if wrong is not None:
            raise UserError(wrong)
