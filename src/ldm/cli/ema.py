"""ldm-ema: the average of a run's weights over any horizon, after the training."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from ldm.cli.app import entry
from ldm.utils.errors import UserError

if TYPE_CHECKING:
    from ldm.checkpoints.snapshots import Snapshot

log = logging.getLogger(__name__)


@entry("ema")
def main(config: dict[str, Any]) -> None:
    """Reads the snapshots of `run` and writes `output`."""
    cfg = OmegaConf.create(config)
    from ldm.checkpoints.native import save_model
    from ldm.checkpoints.snapshots import read_snapshots, summed_model
    from ldm.utils.device import as_dtype

    output, run = Path(cfg.output), Path(cfg.run)
    dtype, sigma_rel = as_dtype(cfg.dtype), _number(cfg, "sigma_rel")
    if output.suffix != ".safetensors":
        raise UserError(f"output: must end in .safetensors, got {output}")
    if output.exists() and not cfg.overwrite:
        raise UserError(f"output: {output} exists: choose another name or overwrite=true")
    if not run.is_dir():
        raise UserError(f"run: no directory at {run}")
    terms = terms_of(read_snapshots(run), sigma_rel, cfg.images, _number(cfg, "max_error"))
    model = summed_model(run, terms)
    training = model.config.get("training", {}) | {"sigma_rel": sigma_rel}
    output.parent.mkdir(parents=True, exist_ok=True)
    save_model(output, model.components, model.config | {"training": training}, dtype=dtype)
    print(output)


def _number(cfg: DictConfig, key: str) -> float:
    try:
        return float(cfg[key])
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: must be a number, got {cfg[key]!r}") from error


def terms_of(
    snapshots: list["Snapshot"], sigma_rel: float, images: Any, max_error: float
) -> list[tuple["Snapshot", float, float]]:
    """The averages to add up, in order, for a horizon at a point of the training.

    Args:
        snapshots: of the run.
        sigma_rel: relative width of the horizon.
        images: the point, None for the last.
        max_error: largest relative distance of the profile.

    Returns: snapshot, sigma_rel and weight of each.
    Raises: UserError if there is no snapshot at that point, or the snapshots do not hold that average.
    """
    from ldm.training.power_ema import Profile, posthoc_weights

    moments = [s.images for s in snapshots]
    point = moments[-1] if images is None else images
    if point not in moments:
        raise UserError(f"images: no snapshot at {point}; there are some at {_listed(moments)}")
    parts = [(s, width) for s in snapshots for width in s.sigma_rel if s.images <= point]
    profiles = [Profile(images=s.images, sigma_rel=width) for s, width in parts]
    weights, error = posthoc_weights(profiles, Profile(images=point, sigma_rel=sigma_rel))
    if error > max_error:
        raise UserError(
            f"sigma_rel: {sigma_rel} at {point} images is out of reach of the {len(profiles)} averages kept: "
            f"they come no nearer than {error:.0%}, max_error is {max_error:.0%}"
        )
    log.info("sigma_rel=%g at %d images: %d averages, within %.2g", sigma_rel, point, len(profiles), error)
    return [(*part, float(weight)) for part, weight in zip(parts, weights, strict=True) if weight]


def _listed(moments: list[int]) -> str:
    """Numbers, the middle ones left out where there are many."""
    shown = moments if len(moments) <= 8 else [*moments[:4], "...", *moments[-3:]]
    return ", ".join(map(str, shown))


if __name__ == "__main__":
    raise SystemExit(main())
