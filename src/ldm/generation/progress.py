"""A progress bar for sampling."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(enabled: bool | None, total: int) -> Iterator[Callable[[], None]]:
    """Yields a function that advances a bar with the time left by one step.

    Args:
        enabled: show the bar, on standard error; None: if that is a terminal, or in a notebook.
        total: steps.
    """
    if enabled is None:
        enabled = "ipykernel" in sys.modules or bool(sys.stderr and sys.stderr.isatty())
    if not enabled:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sampling", total=total)
        yield lambda: bar.advance(task)
