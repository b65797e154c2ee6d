"""ldm: the commands, with one line each."""

import sys

from ldm.cli.comments import title
from ldm.cli.pages import Files

COMMANDS = ("sample", "train", "data", "plan", "convert", "ema")


def main() -> int:
    """Print the commands, or the version with --version."""
    if sys.argv[1:] == ["--version"]:
        from importlib.metadata import version

        print(f"ldm {version('ldm')}")
        return 0
    print("usage: ldm-COMMAND [group=option ...] [key=value ...] [flags]\n")
    for name in COMMANDS:
        print(f"  ldm-{name:10}{title(Files().read(f'{name}.yaml')).partition(': ')[2]}")
    print("\nldm-COMMAND --help shows groups, keys and examples of one.")
    return 0 if sys.argv[1:] in ([], ["--help"], ["-h"]) else 2


if __name__ == "__main__":
    raise SystemExit(main())
