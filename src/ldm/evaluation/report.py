"""A self-contained report.html, made from the files of a run directory alone."""

import base64
import csv
import html
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ldm.evaluation.chart import line_chart, smooth
from ldm.utils.files import write_text

STYLE = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1c2024;
  --soft: #60646c; --card: #f4f5f7; --line: #d9dbe0; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #15171a; --fg: #edeef0; --soft: #a0a4ab; --card: #202327; --line: #34383e; } }
body { font: 15px/1.5 system-ui, sans-serif; background: var(--bg); color: var(--fg); max-width: 1120px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin: 2.2rem 0 .6rem; }
.soft, figcaption { color: var(--soft); font-size: 13px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 1.2rem 0; }
.card { background: var(--card); border-radius: 10px; padding: 10px 18px; min-width: 110px; }
.card b { display: block; font-size: 24px; } figure { margin: 0; }
img { max-width: 100%; border-radius: 6px; background: #fff; }
.wide img { width: 100%; }
.strip { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); }
.charts { display: grid; gap: 18px; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); }
table { border-collapse: collapse; }
td, th { padding: 3px 14px 3px 0; text-align: left; border-bottom: 1px solid var(--line); }
pre { background: var(--card); padding: 12px; border-radius: 8px; overflow-x: auto; font-size: 13px; }
svg { width: 100%; } svg text { fill: var(--soft); font-size: 11px; } svg .grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 1.8; } .raw { stroke: var(--soft); opacity: .4; stroke-width: 1; }
.s0 { stroke: #3b6ee0; } .s1 { stroke: #d9622b; } .s2 { stroke: #2e9e5b; } .s3 { stroke: #b23bb0; }
.s4 { stroke: #c79a1d; } .s5 { stroke: #1fa3a3; } .s6 { stroke: #d43d51; } .s7 { stroke: #7a5cd6; }
.s8 { stroke: #7d8590; } .s9 { stroke: #5a9216; }
"""


def read_metrics(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Column -> (step, value) of a metrics.csv; the last value of a step counts."""
    columns: dict[str, dict[float, float]] = defaultdict(dict)
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name != "step":
                        columns[name][float(row["step"])] = float(value)
    return {name: sorted(points.items()) for name, points in columns.items()}


def picture(path: Path, caption: str = "") -> str:
    """A PNG as an inline figure; "" when there is none."""
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    alt = html.escape(caption or path.stem)
    return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}">{text}</figure>'


def section(title: str, *parts: str) -> str:
    """A headed section; "" when all its parts are empty."""
    body = "".join(parts)
    return f"<h2>{html.escape(title)}</h2>{body}" if body else ""


def table(head: list[str], rows: list[list[Any]]) -> str:
    """An HTML table; "" without rows."""
    if not rows:
        return ""
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def cards(summary: dict[str, Any]) -> str:
    """The headline numbers."""
    found = [
        ("PSNR on unseen images", "autoencoder", "psnr", "{:.1f} dB"),
        ("retrieval top-1", "retrieval", "top1", "{:.1%}"),
        ("retrieval top-5", "retrieval", "top5", "{:.1%}"),
        ("held-out pairs: background", "held_out_pairs", "background", "{:.1%}"),
        ("held-out pairs: emoji", "held_out_pairs", "emoji", "{:.1%}"),
        ("parameters", "latent_diffusion", "parameters", "{:,}"),
        ("steps", "latent_diffusion", "steps", "{:,}"),
    ]
    shown = [(label, form.format(summary[a][b])) for label, a, b, form in found if b in summary.get(a, {})]
    seconds = sum(summary.get("timings", {}).values())
    shown.append(("in all", f"{int(seconds // 60)}m{int(seconds % 60):02d}s"))
    return (
        '<div class="cards">' + "".join(f'<div class="card"><b>{v}</b>{k}</div>' for k, v in shown) + "</div>"
    )


def curves(run_dir: Path) -> str:
    """Loss curves of the stages, loss per timestep bin and speed."""
    first, main = read_metrics(run_dir / "autoencoder" / "metrics.csv"), read_metrics(run_dir / "metrics.csv")
    charts = []
    for title, metrics in (("diffusion loss", main), ("autoencoder loss", first)):
        if points := metrics.get("train/loss", []):
            charts.append((title, line_chart({"loss": smooth(points, 0.6)}, "step", log_y=True, raw=points)))
    bins = {name[-2:]: smooth(points, 0.6) for name, points in main.items() if name.startswith("loss_t/")}
    charts.append(
        ("loss by timestep bin (00 clean, 09 noise)", line_chart(dict(sorted(bins.items())), "step", True))
    )
    charts.append(("images per second", line_chart({"speed": main.get("images_per_second", [])}, "step")))
    return "".join(f"<figure>{svg}<figcaption>{title}</figcaption></figure>" for title, svg in charts if svg)


def retrieval_part(summary: dict[str, Any]) -> str:
    """Retrieval's numbers and misses."""
    if "retrieval" not in summary:
        return ""
    r = summary["retrieval"]
    text = (
        f"<p>The nearest of {r['references']:,} images in pixels is the prompted one for {r['top1']:.1%} of "
        f"{r['n']:,} training captions; it is among the five nearest for {r['top5']:.1%}.</p>"
    )
    return text + table(["prompt", "nearest image"], [[m["caption"], m["got"]] for m in r["misses"][:40]])


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a run directory and returns its path; what the run lacks is left out."""
    file = run_dir / "summary.json"
    summary: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    samples = run_dir / "samples"
    steps = sorted(samples.glob("step_*.png"))
    steps = [steps[i * (len(steps) - 1) // 8] for i in range(9)] if len(steps) > 9 else steps
    held = [
        [h["caption"], h["nearest"], "yes" if h["correct"] else "no"] for h in summary.get("held_out", [])
    ]
    timings = [[name, f"{seconds:.0f} s"] for name, seconds in summary.get("timings", {}).items()]
    config = run_dir / "config.yaml"
    about = " · ".join(str(v) for v in (summary.get("created"), summary.get("git_revision")) if v)
    machine = ", ".join(f"{k} {v}" for k, v in summary.get("machine", {}).items())
    command = html.escape(summary.get("sample_command", ""))
    strip = "".join(picture(p, f"step {int(p.stem[5:]):,}") for p in steps)
    curve, prompts = curves(run_dir), picture(samples / "prompts.png")
    title = html.escape(str(summary.get("name", run_dir.name)))
    body = [
        f"<h1>{title}</h1><p class=soft>{html.escape(about)}<br>{html.escape(machine)}</p>",
        cards(summary),
        section("Fixed prompts", f'<div class="wide">{prompts}</div>' if prompts else ""),
        section("Curves", f'<div class="charts">{curve}</div>' if curve else ""),
        section("Samples over time", f'<div class="strip">{strip}</div>' if strip else ""),
        section(
            "Reconstruction",
            picture(run_dir / "reconstructions.png", "above: images not seen, below: decoded"),
        ),
        section(
            "Retrieval", retrieval_part(summary), picture(samples / "all.png", "every training caption once")
        ),
        section(
            "Held out of training",
            table(["prompt", "nearest image", "right"], held),
            picture(samples / "held_out.png"),
            picture(samples / "held_out_pairs.png", "emoji on backgrounds they were never shown on"),
        ),
        section("Timings", table(["stage", "time"], timings)),
        section("Sample from it", f"<pre>{command}</pre>" if command else ""),
        section(
            "Config",
            f"<details><summary>config.yaml</summary><pre>{html.escape(config.read_text())}</pre></details>"
            if config.is_file()
            else "",
        ),
    ]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title}</title><style>{STYLE}</style>{''.join(body)}</html>"
    )
    path = run_dir / "report.html"
    write_text(path, page)
    return path
