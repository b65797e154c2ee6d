"""summary.json of a run: machine, timings and scores, kept when the run is resumed."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ldm.utils.distributed import is_main
from ldm.utils.files import write_text
from ldm.utils.machine import machine, revision


class Summary:
    """The facts about a run that its report shows; on the first rank they are written with each change.

    Args:
        path: of the JSON file; what it holds already stays.
        name: of the run.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.facts: dict[str, Any] = {"name": name, "machine": machine(), **revision(), "timings": {}}
        if path.is_file():
            self.facts |= json.loads(path.read_text())

    def add(self, **facts: Any) -> None:
        """Adds facts by name; those of an earlier part of the run are replaced."""
        self.facts |= facts
        if is_main():
            write_text(self.path, json.dumps(self.facts, indent=1))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds spent inside to the timings."""
        start = time.perf_counter()
        yield
        timings = self.facts["timings"]
        timings[name] = round(timings.get(name, 0.0) + time.perf_counter() - start, 1)
        self.add()
