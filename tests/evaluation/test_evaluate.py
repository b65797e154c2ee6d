import json
from dataclasses import dataclass
from typing import ClassVar

from ldm.evaluation.evaluate import evaluate, summary_of
from ldm.evaluation.metrics.references import ReferenceData
from ldm.evaluation.score import Score


class Sampler:
    def images(self, captions, seed):
        raise AssertionError


@dataclass(frozen=True)
class Half:
    def __call__(self, sampler, data, folder):
        return Score(title="Half", values={"x": 0.5})


@dataclass(frozen=True)
class Needy(Half):
    requires: ClassVar[type] = ReferenceData


@dataclass(frozen=True)
class Broken(Half):
    def __call__(self, sampler, data, folder):
        raise ValueError("no pairs")


def test_scores_are_written_by_the_name_of_the_metric(tmp_path):
    scores = evaluate(Sampler(), object(), {"a": Half(), "b": None}, tmp_path)
    assert summary_of(scores) == {"a": {"x": 0.5}}
    assert list(json.loads((tmp_path / "scores.json").read_text())) == ["a"]


def test_a_metric_is_skipped_on_data_that_lack_what_it_requires(tmp_path, caplog):
    caplog.set_level("INFO")
    assert evaluate(Sampler(), object(), {"needy": Needy()}, tmp_path) == {}
    assert "needy: skipped, object has no reference images" in caplog.text.lower()


def test_a_metric_that_fails_leaves_the_others(tmp_path, caplog):
    assert list(evaluate(Sampler(), object(), {"x": Broken(), "y": Half()}, tmp_path)) == ["y"]
    assert "x: no score, no pairs" in caplog.text
