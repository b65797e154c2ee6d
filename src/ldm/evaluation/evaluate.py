"""Evaluation of a trained model by the metrics of a config."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ldm.evaluation.score import ImageSampler, Score, write_scores

log = logging.getLogger(__name__)


@runtime_checkable
class Metric(Protocol):
    """A measurement of a trained model.

    A metric is a frozen dataclass of its settings. Its class may have `requires`, a runtime-checkable
    protocol; on data that lack its methods the metric is skipped.
    """

    def __call__(self, sampler: ImageSampler, data: Any, folder: Path) -> Score:
        """The score of a model.

        Args:
            sampler: draws images of captions with the model; all ranks call it together.
            data: the data module of the run.
            folder: the run directory, for pictures.
        """
        ...


def evaluate(
    sampler: ImageSampler, data: Any, metrics: Mapping[str, Metric | None], folder: Path
) -> dict[str, Score]:
    """Scores of a model by the name of the metric, which are also written into the run directory.

    Args:
        sampler: draws images of captions with the model.
        data: the data module of the run.
        metrics: by name; None is passed over.
        folder: the run directory. Of several ranks the first gives it, the others a temporary one.
    """
    scores = {}
    for name, metric in metrics.items():
        if metric is None:
            continue
        requires = getattr(metric, "requires", None)
        if requires is not None and not isinstance(data, requires):
            what = (requires.__doc__ or requires.__name__).splitlines()[0].rstrip(".")
            log.info("%s: skipped, %s has no %s", name, type(data).__name__, what[:1].lower() + what[1:])
            continue
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        try:
            scores[name] = metric(sampler, data, folder)
        except ValueError as error:  # the run has been trained: its other scores and its report are not lost
            log.warning("%s: no score, %s", name, error)
            continue
        if scores[name].headlines:
            log.info("%s: %s", name, ", ".join(f"{h.label} {h.text}" for h in scores[name].headlines))
    write_scores(folder, scores)
    return scores


def summary_of(scores: Mapping[str, Score]) -> dict[str, Any]:
    """The part of a run's summary that its scores make up."""
    return {name: score.values for name, score in scores.items() if score.values is not None}
