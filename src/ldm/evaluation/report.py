"""A self-contained report.html, made from the files of a run directory alone."""

import csv
import html
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from ldm.evaluation.chart import Points, line_chart, smooth
from ldm.evaluation.page import STYLE, labelled, picture, section, table
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


def cards(summary: dict[str, Any], metrics: Series) -> str:
    """The headline numbers that there are."""
    scores = [
        ("PSNR on unseen images", "autoencoder", "psnr", "{:.1f} dB"),
        ("retrieval top-1", "retrieval", "top1", "{:.1%}"),
        ("retrieval top-5", "retrieval", "top5", "{:.1%}"),
        ("held-out pairs: background", "held_out_pairs", "background", "{:.1%}"),
        ("held-out pairs: emoji", "held_out_pairs", "emoji", "{:.1%}"),
    ]
    sizes = [
        ("parameters", "latent_diffusion", "parameters", "{:,}"),
        ("steps", "latent_diffusion", "steps", "{:,}"),
    ]

    def found(wanted: list[tuple[str, str, str, str]]) -> list[tuple[str, str]]:
        return [
            (label, form.format(summary[a][b])) for label, a, b, form in wanted if b in summary.get(a, {})
        ]

    shown = found(scores)
    if held := summary.get("held_out"):
        shown.append(("held-out captions right", f"{sum(h['correct'] for h in held)} of {len(held)}"))
    shown += found(sizes)
    if speeds := [y for _, y in metrics.get("images_per_second", [])]:
        shown.append(("images per second", f"{statistics.median(speeds):,.0f}"))
    if timings := summary.get("timings"):
        shown.append(("in all", duration(sum(timings.values()))))
    body = "".join(f'<div class="card"><b>{v}</b>{k}</div>' for k, v in shown)
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


def retrieval_part(found: dict[str, Any]) -> str:
    """Retrieval's numbers and misses."""
    text = (
        "<p>For each training caption: which of all reference images is nearest in pixels?</p>"
        if found
        else ""
    )
    names = [("captions", "n", "{:,}"), ("reference images", "references", "{:,}")]
    names += [("prompted image is nearest", "top1", "{:.1%}"), ("among the five nearest", "top5", "{:.1%}")]
    rows = [[label, form.format(found[key])] for label, key, form in names if key in found]
    misses = [[m["caption"], m["got"]] for m in found.get("misses", [])]
    listed = table(["missed prompt", "nearest image"], misses)
    if len(misses) > FEW:
        listed = f"<details><summary>the {len(misses):,} misses</summary>{listed}</details>"
    return text + table(["retrieval", ""], rows) + listed


def held_out_part(summary: dict[str, Any], samples: Path) -> str:
    """Captions and pairs never trained on."""
    held = summary.get("held_out", [])
    labels = [
        f"{html.escape(h['caption'])}<br><b class=yes>right</b>"
        if h["correct"]
        else f"{html.escape(h['caption'])}<br><b class=no>nearest: {html.escape(h['nearest'])}</b>"
        for h in held
    ]
    grid = labelled(samples / "held_out.png", labels)
    rows = [[h["caption"], h["nearest"], "yes" if h["correct"] else "no"] for h in held]
    listed = "" if 'class="labelled' in grid else table(["prompt", "nearest image", "right"], rows)
    pairs = picture(samples / "held_out_pairs.png", "emoji on backgrounds they were never shown on")
    return grid + listed + pairs


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
    file, config, samples = run_dir / "summary.json", run_dir / "config.yaml", run_dir / "samples"
    summary: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    metrics = read_metrics(run_dir / "metrics.csv")
    curve, command = curves(run_dir, metrics), html.escape(summary.get("sample_command", ""))
    timings = [[name, duration(seconds)] for name, seconds in summary.get("timings", {}).items()]
    text = html.escape(config.read_text()) if config.is_file() else ""
    all_of_it = labelled(samples / "all.png")
    reconstruction = picture(run_dir / "reconstructions.png", "above: images not seen, below: decoded")
    title = html.escape(str(summary.get("name", run_dir.name)))
    body = [
        about(summary, title),
        cards(summary, metrics),
        section("Fixed prompts", labelled(samples / "prompts.png")),
        section("Curves", f'<div class="charts">{curve}</div>' if curve else ""),
        section("Samples over time", strip(samples)),
        section("Reconstruction", f'<div class="wide">{reconstruction}</div>' if reconstruction else ""),
        section("Retrieval", retrieval_part(summary.get("retrieval", {})), all_of_it),
        section("Held out of training", held_out_part(summary, samples)),
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
