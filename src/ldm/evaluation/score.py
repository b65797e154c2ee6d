"""Scores of a trained model as plain values, which a report shows without knowledge of the metric."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

from ldm.utils.files import write_text

FILE = "scores.json"


@runtime_checkable
class ImageSampler(Protocol):
    """The model as a metric sees it; `ldm.generation.sampler.Sampler` is one."""

    def images(self, captions: Sequence[str] | int, seed: int) -> UInt8[Tensor, "n 3 h w"]:
        """Images of captions, or a number of images of an unconditional model."""
        ...


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A number for the top of a report.

    Args:
        label: its name.
        value: the number, or words.
        format: of the number, for `str.format`.
    """

    label: str
    value: float | str
    format: str = "{}"

    @property
    def text(self) -> str:
        """The formatted number."""
        return self.format.format(self.value)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of words and numbers below a head.

    Args:
        head: names of the columns.
        rows: as many values each.
        summary: of a table that is folded when it is long, for instance "the 57 misses".
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG that a metric wrote.

    Args:
        file: its path in the run directory.
        caption: below it.
        verdicts: for a grid with prompts in its metadata: (right, words) for each image, below its prompt.
        wide: fills the width of the page.
    """

    file: str
    caption: str = ""
    verdicts: Sequence[tuple[bool, str]] = ()
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result of a metric.

    Args:
        title: heading of its section in the report.
        values: what summary.json holds of it, below the metric's name; None for nothing.
        headlines: numbers for the top of the report.
        text: a sentence on what is measured.
        tables: of the section.
        pictures: of the section.
    """

    title: str
    values: Any = None
    headlines: Sequence[Headline] = ()
    text: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Score":
        """The score whose `dataclasses.asdict` is given."""
        parts = {
            "headlines": [Headline(**each) for each in plain["headlines"]],
            "tables": [Table(**each) for each in plain["tables"]],
            "pictures": [
                Picture(**{**each, "verdicts": [(right, words) for right, words in each["verdicts"]]})
                for each in plain["pictures"]
            ],
        }
        return cls(**{**plain, **parts})


def write_scores(directory: Path, scores: Mapping[str, Score]) -> None:
    """Writes scores into a run directory, before those of an earlier part of the run.

    Args:
        directory: of the run.
        scores: by name; one of the same name is replaced.
    """
    merged = {**scores, **{k: v for k, v in read_scores(directory).items() if k not in scores}}
    text = json.dumps({name: asdict(score) for name, score in merged.items()}, indent=1)
    write_text(directory / FILE, text)


def read_scores(directory: Path) -> dict[str, Score]:
    """The scores in a run directory, by name; none if there is no file of them."""
    path = directory / FILE
    if not path.is_file():
        return {}
    return {name: Score.of(plain) for name, plain in json.loads(path.read_text()).items()}
