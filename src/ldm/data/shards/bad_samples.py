"""Unusable samples: counted by cause and logged; too many of them end the run."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from ldm.data.batch import check_fraction
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)
SEEN_BEFORE_JUDGING = 200


class BadSamples:
    """Counter and log of bad samples.

    Args:
        path: file to which they are written, a line of json each, each once in a run; None for none.
        max_bad_fraction: of the samples seen, at most.
    """

    def __init__(self, path: str | Path | None, max_bad_fraction: float) -> None:
        self.path = None if path is None else Path(path)
        self.max_bad_fraction = check_fraction("max_bad_fraction", max_bad_fraction)
        self.bad: Counter[str] = Counter()
        self.seen = 0
        self._written: set[int] | None = None

    def note(self, cause: str, shard: str, key: int) -> None:
        """Counts and logs a bad sample.

        Args:
            cause: why it is bad.
            shard: path of its shard.
            key: its identity.

        Raises: ValueError if there are too many.
        """
        self.bad[cause] += 1
        if self.path is not None:
            self._write(self.path, {"cause": cause, "shard": shard, "key": key})
        if self.bad.total() == 1:
            log.warning("a sample cannot be used: %s (%s)", cause, shard)
        share = self.bad.total() / self.seen
        if self.seen >= SEEN_BEFORE_JUDGING and share > self.max_bad_fraction:
            raise UserError(
                f"{share:.1%} of {self.seen} samples cannot be used, and max_bad_fraction is "
                f"{self.max_bad_fraction:g}: {dict(self.bad)}"
            )

    def _write(self, path: Path, line: dict[str, Any]) -> None:
        if self._written is None:  # what this run found before it was stopped
            self._written = {found["key"] for found in self._lines()}
        if line["key"] in self._written:
            return
        self._written.add(line["key"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _lines(self) -> list[dict[str, Any]]:
        if self.path is None or not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]  # not one cut by a kill

    def by_cause(self) -> dict[str, int]:
        """Number of samples that the file holds, of all processes, by cause; each sample counts once."""
        return dict(Counter({line["key"]: line["cause"] for line in self._lines()}.values()))
