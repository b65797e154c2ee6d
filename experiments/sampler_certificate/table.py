"""The README's table of samplers, from the configs: prints it; --write puts it into the README.

python experiments/sampler_certificate/table.py [--write]
"""

import sys
from pathlib import Path

from ldm.cli.groups import options

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- samplers: table.py -->\n", "<!-- end of samplers -->"


def table() -> str:
    """One line for each solver: order, evaluations of the net in a step, noise, source."""
    lines = ["| `scheduler=` | order | NFE per step | stochastic | source |", "|---|---|---|---|---|"]
    for name, solver in options("scheduler").items():
        noise = "yes" if solver.stochastic else "no"
        lines.append(f"| `{name}` | {solver.order} | {solver.evaluations} | {noise} | {solver.source} |")
    return "\n".join(lines) + "\n"


def written(readme: str) -> str:
    """The README with the table as it is now."""
    before, _, rest = readme.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        README.write_text(written(README.read_text()))
    else:
        print(table(), end="")
