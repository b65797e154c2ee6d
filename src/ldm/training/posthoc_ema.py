"""An average of a run's weights over any horizon, made after the training from its snapshots.

Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", section 3.2.
"""

import logging
from dataclasses import replace
from pathlib import Path

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.snapshots import Snapshot, read_snapshots, summed_model
from ldm.training.power_ema import Profile, posthoc_weights
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)


def posthoc_average(
    run: str | Path, sigma_rel: float, images: int | None = None, max_error: float = 0.1
) -> LoadedModel:
    """A run's model with averaged weights; its config's `training` says over which horizon.

    Args:
        run: directory of a training run that stored snapshots (`averages=power`).
        sigma_rel: relative width of the average, in (0, 0.2887).
        images: point of the training, in images seen; None for the last snapshot.
        max_error: largest relative distance of the average's profile from the requested one.

    Raises: UserError if there is no snapshot at that point, or the snapshots do not hold that average.
    """
    if not Path(run).is_dir():
        raise UserError(f"run must be the directory of a training run, got {run}")
    terms = terms_of(read_snapshots(Path(run)), sigma_rel, images, max_error)
    model = summed_model(Path(run), terms)
    training = model.config.get("training", {}) | {"sigma_rel": sigma_rel}
    return replace(model, config=model.config | {"training": training})


def terms_of(
    snapshots: list[Snapshot], sigma_rel: float, images: int | None, max_error: float
) -> list[tuple[Snapshot, float, float]]:
    """The averages to add up, in order, for a horizon at a point of the training.

    Args:
        snapshots: of the run.
        sigma_rel: relative width of the horizon.
        images: the point, None for the last.
        max_error: largest relative distance of the profile.

    Returns: snapshot, sigma_rel and weight of each.
    Raises: UserError if there is no snapshot at that point, or the snapshots do not hold that average.
    """
    moments = [s.images for s in snapshots]
    point = moments[-1] if images is None else images
    if point not in moments:
        raise UserError(f"images must be those of a snapshot, {_listed(moments)}, got {point}")
    parts = [(s, width) for s in snapshots for width in s.sigma_rel if s.images <= point]
    profiles = [Profile(images=s.images, sigma_rel=width) for s, width in parts]
    weights, error = posthoc_weights(profiles, Profile(images=point, sigma_rel=sigma_rel))
    if error > max_error:
        raise UserError(
            f"sigma_rel must be within reach of the {len(profiles)} averages kept, got {sigma_rel} at "
            f"{point} images: they come no nearer than {error:.0%}, max_error is {max_error:.0%}"
        )
    log.info("sigma_rel=%g at %d images: %d averages, within %.2g", sigma_rel, point, len(profiles), error)
    return [(*part, float(weight)) for part, weight in zip(parts, weights, strict=True) if weight]


def _listed(moments: list[int]) -> str:
    """Numbers, the middle ones left out where there are many."""
    shown = moments if len(moments) <= 8 else [*moments[:4], "...", *moments[-3:]]
    return ", ".join(map(str, shown))
