"""A self-contained report.html, made from the files of a run directory alone."""

import csv
import html
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.evaluation.chart import Points, line_chart, smooth
from ldm.evaluation.page import STYLE, labelled, names_in, picture, section, table
from ldm.evaluation.score import Picture, Score, Table, read_scores
from ldm.utils.duration import duration
from ldm.utils.files import write_text

Series = dict[str, list[tuple[float, float]]]
FEW = 20  # so few points are not smoothed, so few rows not folded
GRIDS = 9  # shown at most


def read_metrics(path: Path) -> Series:
    """Column -> (step, value) of a metrics.csv; the last value of a step counts."""
    columns: dict[str, dict[float, float]] = defaultdict(dict)
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name != "step" and row["step"]:
                        columns[name][float(row["step"])] = float(value)
    return {name: sorted(points.items()) for name, points in columns.items()}


def cards(scores: Mapping[str, Score], summary: dict[str, Any], metrics: Series) -> str:
    """The headlines of the scores, then size, steps, speed and time of the run, where they are known."""
    shown = [(headline.label, headline.text) for score in scores.values() for headline in score.headlines]
    model = summary.get("latent_diffusion", {})
    shown += [(name, f"{model[name]:,}") for name in ("parameters", "steps") if name in model]
    if speeds := [y for _, y in metrics.get("images_per_second", [])]:
        shown.append(("images per second", f"{statistics.median(speeds):,.0f}"))
    if timings := summary.get("timings"):
        shown.append(("in all", duration(sum(timings.values()))))
    body = "".join(
        f'<div class="card"><b>{html.escape(text)}</b>{html.escape(label)}</div>' for label, text in shown
    )
    return f'<div class="cards">{body}</div>' if body else ""


def smoothed(points: Points) -> Points:
    """Points smoothed over a fortieth of their number; few points as they are."""
    return smooth(points, 1 - 1 / max(2.5, len(points) / 40)) if len(points) > FEW else points


def loss_chart(metrics: Series) -> str:
    """Training loss, smoothed over the raw values when there are many, and validation loss."""
    raw = metrics.get("train/loss", [])
    series = {"training": smoothed(raw)}
    if val := metrics.get("val/loss"):
        series["validation"] = val
    return line_chart(series, "step", log_y=True, raw=raw if len(raw) > FEW else ())


def curves(run_dir: Path, main: Series) -> str:
    """Loss curves of the stages, loss per timestep bin and speed."""
    first = read_metrics(run_dir / "autoencoder" / "metrics.csv")
    bins = sorted((name[-2:], points) for name, points in main.items() if name.startswith("loss_t/"))
    by_time = {
        f"t {100 * i // len(bins)}-{100 * (i + 1) // len(bins)}%": smoothed(points)
        for i, (_, points) in enumerate(bins)
    }
    charts = [
        ("diffusion loss", loss_chart(main)),
        (
            "diffusion loss by time, from clean images (0%) to noise (100%)",
            line_chart(by_time, "step", log_y=True, style="t"),
        ),
        ("autoencoder loss", loss_chart(first)),
        ("images per second", line_chart({"speed": main.get("images_per_second", [])}, "step")),
    ]
    return "".join(f"<figure>{svg}<figcaption>{title}</figcaption></figure>" for title, svg in charts if svg)


def strip(folder: Path) -> str:
    """Sample grids over time, at most nine, evenly chosen with the first and the last."""
    steps = sorted(p for p in folder.glob("step_*.png") if p.stem[5:].isdecimal())
    if len(steps) > GRIDS:
        steps = [steps[i * (len(steps) - 1) // (GRIDS - 1)] for i in range(GRIDS)]
    body = "".join(picture(p, f"step {int(p.stem[5:]):,}") for p in steps)
    return f'<div class="strip">{body}</div>' if body else ""


def score_section(score: Score, run_dir: Path) -> str:
    """The section of a score: its sentence, tables and pictures."""
    text = f"<p>{html.escape(score.text)}</p>" if score.text else ""
    tables = [folded(each) for each in score.tables]
    return section(score.title, text, *tables, *(shown_picture(each, run_dir) for each in score.pictures))


def folded(of: Table) -> str:
    """A table, which is folded if it has more than 20 rows."""
    listed = table(of.head, of.rows)
    if len(of.rows) <= FEW:
        return listed
    return f"<details><summary>{html.escape(of.summary or 'the rows')}</summary>{listed}</details>"


def shown_picture(of: Picture, run_dir: Path) -> str:
    """A picture: a grid with a prompt and a verdict below each image, or the PNG as it is."""
    path = run_dir / of.file
    if of.wide:
        figure = picture(path, of.caption)
        return f'<div class="wide">{figure}</div>' if figure else ""
    if of.caption:
        return picture(path, of.caption)
    prompts = [html.escape(prompt) for prompt in names_in(path)]
    if len(prompts) != len(of.verdicts):
        return labelled(path)
    return labelled(
        path,
        [
            f"{prompt}<br><b class={'yes' if right else 'no'}>{html.escape(words)}</b>"
            for prompt, (right, words) in zip(prompts, of.verdicts, strict=True)
        ],
    )


def about(summary: dict[str, Any], title: str) -> str:
    """Title, version, time and machine."""
    version = f"ldm {summary['ldm_version']}" if "ldm_version" in summary else ""
    facts = [version, summary.get("git_revision"), summary.get("created"), summary.get("command")]
    machine = ", ".join(f"{k} {v}" for k, v in summary.get("machine", {}).items())
    lines = [html.escape(" · ".join(str(v) for v in facts if v)), html.escape(machine)]
    text = "<br>".join(line for line in lines if line)
    return f"<h1>{title}</h1>" + (f"<p class=soft>{text}</p>" if text else "")


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a run directory and returns its path; what the run lacks is left out."""
    file, config = run_dir / "summary.json", run_dir / "config.yaml"
    summary: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    scores, metrics = read_scores(run_dir), read_metrics(run_dir / "metrics.csv")
    curve, command = curves(run_dir, metrics), html.escape(summary.get("sample_command", ""))
    timings = [[name, duration(seconds)] for name, seconds in summary.get("timings", {}).items()]
    text = html.escape(config.read_text()) if config.is_file() else ""
    title = html.escape(str(summary.get("name", run_dir.name)))
    body = [
        about(summary, title),
        cards(scores, summary, metrics),
        *(score_section(score, run_dir) for score in scores.values()),
        section("Curves", f'<div class="charts">{curve}</div>' if curve else ""),
        section("Samples over time", strip(run_dir / "samples")),
        section("Timings", table(["stage", "time"], timings)),
        section("Sample from it", f"<pre class=command>{command}</pre>" if command else ""),
        section(
            "Config", f"<details><summary>config.yaml</summary><pre>{text}</pre></details>" if text else ""
        ),
    ]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title}</title><style>{STYLE}</style>{''.join(body)}</html>"
    )
    path = run_dir / "report.html"
    write_text(path, page)
    return path
