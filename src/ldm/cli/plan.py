"""ldm-plan: what a training run needs on a cluster, before the first GPU hour."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.cli.app import entry
from ldm.cli.config import build
from ldm.cli.train import SUPPLIED
from ldm.utils.errors import UserError

if TYPE_CHECKING:
    from ldm.cli.rehearse import Stage
    from ldm.planning.estimate import Cluster, Plan
    from ldm.planning.simulate import SimulatedStep


@entry("plan", supplied=SUPPLIED, unneeded=("data", "first_stage.data", "init_checkpoint"))
def main(config: dict[str, Any]) -> None:
    """Print the plan of each stage that the config trains, and write it to a file if one is named."""
    from omegaconf import OmegaConf

    cfg = OmegaConf.create(config)
    if cfg.json is not None and Path(cfg.json).exists():
        raise UserError(f"json: {cfg.json} exists; choose another file")
    cluster = build(cfg.cluster)

    from ldm.cli.rehearse import simulated_steps, stages_of
    from ldm.planning.estimate import STRATEGIES, plan

    strategies = [s for s in STRATEGIES if cluster.world > 1 or not s.sharded]
    said, stages = [], stages_of(cfg)
    for stage in stages:
        cluster.share_of(stage.batch_size)
    for stage in stages:
        steps = simulated_steps(stage, cluster)
        images = stage.batch_size * stage.max_steps
        plans = [plan(steps, cluster, strategy, stage.batch_size, images) for strategy in strategies]
        show(stage, steps[False], cluster, plans)
        said.append({"stage": stage.name, **as_json(steps[False], plans)})
    if cfg.json is not None:
        Path(cfg.json).write_text(json.dumps({"cluster": asdict(cluster), "stages": said}, indent=1))
        print(cfg.json)


def as_json(seen: "SimulatedStep", plans: "list[Plan]") -> dict[str, Any]:
    """What the tables show, in bytes and FLOPs, in plain types."""
    return {
        "parameters": seen.parameters,
        "flops_per_image": seen.model_flops,
        "flops": seen.flops,
        "plans": [asdict(p) | {"strategy": str(p.strategy), "total": p.total} for p in plans],
    }


def show(stage: "Stage", seen: "SimulatedStep", cluster: "Cluster", plans: "list[Plan]") -> None:
    """Prints the plans of a stage, a column each, and what does not fit."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(head(stage, seen, cluster))
    console.print(table(cluster, plans))
    for line in verdicts(cluster, plans):
        console.print(line)
    console.print()


def head(stage: "Stage", seen: "SimulatedStep", cluster: "Cluster") -> str:
    """The lines above the table: what is trained, and on what."""
    images, flops = stage.batch_size * stage.max_steps, seen.flops
    frozen = f" + {flops['frozen'] / 1e9:,.1f} frozen" if flops["frozen"] else ""
    return (
        f"{stage.name} at {stage.image_size} px, {stage.precision}: {stage.max_steps:,} steps of "
        f"{stage.batch_size:,} images, {images:,} in all\n"
        f"{seen.parameters:,} parameters; {seen.model_flops / 1e9:,.1f} GFLOPs an image "
        f"(3 x {flops['trained'] / 1e9:,.1f}{frozen})\n"
        f"{cluster.nodes} x {cluster.devices} devices of {cluster.memory_gib:g} GiB "
        f"({cluster.reserved_gib:g} reserved), {cluster.peak_tflops:g} TFLOP/s at an MFU of {cluster.mfu:g}, "
        f"${cluster.price:g} an hour"
    )


def table(cluster: "Cluster", plans: "list[Plan]") -> Any:
    """Memory, batch, time and cost, a column for each strategy."""
    from rich import box
    from rich.table import Table

    from ldm.planning.estimate import MOST
    from ldm.utils.duration import duration
    from ldm.utils.size import GIB, MIB

    name, unit = ("GiB", GIB) if plans[0].total >= GIB else ("MiB", MIB)
    made = Table(f"{name} on a device", box=box.SIMPLE_HEAD)
    for p in plans:
        made.add_column(str(p.strategy).replace(" + ", " +\n"), justify="right")
    for kind in plans[0].memory:
        made.add_row(kind, *(f"{p.memory[kind] / unit:.2f}" for p in plans))
    made.add_row("total", *(f"{p.total / unit:.2f}" for p in plans), end_section=True)
    made.add_row("micro-batch", *(f"{p.micro_batch:,}" for p in plans))
    made.add_row("accumulated", *(f"{p.accumulate:,}" for p in plans))
    largest = [f"{p.largest:,}" + "+" * (p.largest == MOST) if p.largest else "none" for p in plans]
    made.add_row("largest that fits", *largest)
    fits = [bool(p.largest) for p in plans]
    rows: list[tuple[str, list[str]]] = [
        ("images/s", [f"{p.images_per_second:,.0f}" for p in plans]),
        ("time", [f"{p.days:,.1f} days" if p.days >= 1 else duration(p.days * 86_400) for p in plans]),
        ("cost", [f"${p.cost:,.0f}" for p in plans]),
    ]
    for name, cells in rows:
        made.add_row(name, *(cell if fit else "-" for cell, fit in zip(cells, fits, strict=True)))
    return made


def verdicts(cluster: "Cluster", plans: "list[Plan]") -> list[str]:
    """What does not fit, and the overrides of the fastest that does."""
    from ldm.utils.size import size

    lines = [
        f"{p.strategy} does not fit: needs {size(p.total)} of {size(cluster.room)} at a micro-batch of 1"
        for p in plans
        if not p.largest
    ]
    fitting = [p for p in plans if p.largest]
    if not fitting:
        return [*lines, "nothing fits"]
    best = max(fitting, key=lambda p: p.images_per_second)  # the first of equals, the simplest
    alone = "gpu" if cluster.gpu else "cpu"
    kind = "fsdp" if best.strategy.sharded else "ddp" if cluster.world > 1 else alone
    return [
        *lines,
        f"fastest that fits: {best.strategy}: trainer={kind} trainer.devices={cluster.devices} "
        f"trainer.num_nodes={cluster.nodes} trainer.accumulate_grad_batches={best.accumulate}"
        + (" task.activation_checkpointing=true" if best.strategy.checkpointing else ""),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
