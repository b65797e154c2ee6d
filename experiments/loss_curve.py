"""The loss curve of a run as a standalone SVG: python experiments/loss_curve.py RUN_DIRECTORY OUTPUT.svg."""

import sys
from pathlib import Path

from ldm.evaluation.chart import line_chart, smooth
from ldm.evaluation.report import read_metrics

STYLE = (
    "<style>svg{background:#fff;font:11px sans-serif}polyline{fill:none;stroke:#3b6ee0;stroke-width:1.8}"
    ".raw{stroke:#b9bdc5;stroke-width:1}.grid{stroke:#d9dbe0}text{fill:#60646c}</style>"
)


def main() -> None:
    run, output = Path(sys.argv[1]), Path(sys.argv[2])
    points = read_metrics(run / "metrics.csv")["train/loss"]
    svg = line_chart({"loss": smooth(points, 0.6)}, "step", log_y=True, raw=points)
    head, _, rest = svg.partition(">")
    output.write_text(f'{head} xmlns="http://www.w3.org/2000/svg">{STYLE}{rest}\n')


if __name__ == "__main__":
    main()
