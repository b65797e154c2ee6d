"""ldm-data: what a data set yields, in numbers and as a picture; tar shards, their index, speed."""

import sys
from collections.abc import Sequence
from typing import Any

from ldm.cli.app import entry
from ldm.utils.errors import UserError

WORDS = ("show", "index", "bench", "precompute", "cifar10", "imagefolder", "hf")
SHARDS = {"index": "laion", "precompute": "laion", "cifar10": "cifar10", "imagefolder": "imagefolder"}


def main(argv: Sequence[str] | None = None) -> int:
    """ldm-data [WORD] ...: a leading word, one of `WORDS`, is the action and picks the data."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in WORDS:
        action = words.pop(0)
        given = any(word.startswith("data=") for word in words)
        data = SHARDS.get(action)
        words += [f"action={action}"] + ([f"data={data}"] if data and not given else [])
    return command(words)


@entry("data")
def command(config: dict[str, Any]) -> None:
    """Does what the action says."""
    action = config["action"]
    if action not in WORDS:
        raise UserError(f"action: must be one of {', '.join(WORDS)}, got {action!r}")
    from ldm.cli.data_tasks import TASKS
    from ldm.utils.device import set_threads

    set_threads(config["threads"])
    TASKS[action](config)


if __name__ == "__main__":
    raise SystemExit(main())
