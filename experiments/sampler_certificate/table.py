"""The table of solvers in docs/sampling.md, from the configs: prints it; --write puts it into the page.

python experiments/sampler_certificate/table.py [--write]
"""

import sys
from pathlib import Path

from ldm.utils.options import options

PAGE = Path(__file__).parents[2] / "docs" / "sampling.md"
BEGIN, END = "<!-- samplers: table.py -->\n", "<!-- end of samplers -->"


def table() -> str:
    """One line for each solver: order, evaluations of the net in a step, noise, source."""
    lines = ["| `scheduler=` | order | NFE per step | stochastic | source |", "|---|---|---|---|---|"]
    for name, solver in options("scheduler").items():
        noise = "yes" if solver.stochastic else "no"
        lines.append(f"| `{name}` | {solver.order} | {solver.evaluations} | {noise} | {solver.source} |")
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """The page with the table as the configs have it now."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(written(PAGE.read_text()))
    else:
        print(table(), end="")
