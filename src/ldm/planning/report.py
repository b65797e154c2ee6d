"""Plans of a stage as text: a head, a table with a column for each strategy, and the verdicts."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from ldm.planning.estimate import MOST, Cluster, Plan
from ldm.planning.simulated_step import SimulatedStep
from ldm.planning.stages import Stage
from ldm.utils.duration import duration
from ldm.utils.size import GIB, MIB, size


def as_json(seen: SimulatedStep, plans: Sequence[Plan]) -> dict[str, Any]:
    """The content of the tables, in bytes and FLOPs, in plain types."""
    return {
        "parameters": seen.parameters,
        "flops_per_image": seen.model_flops,
        "flops": seen.flops,
        "plans": [asdict(p) | {"strategy": str(p.strategy), "total": p.total} for p in plans],
    }


def head(stage: Stage, seen: SimulatedStep, cluster: Cluster) -> str:
    """The lines above the table: the training and the cluster."""
    images, flops = stage.batch_size * stage.max_steps, seen.flops
    frozen = f" + {flops['frozen'] / 1e9:,.1f} frozen" if flops["frozen"] else ""
    return (
        f"{stage.name} at {stage.image_size} px, {stage.precision}: {stage.max_steps:,} steps of "
        f"{stage.batch_size:,} images, {images:,} in all\n"
        f"{seen.parameters:,} parameters; {seen.model_flops / 1e9:,.1f} GFLOPs an image "
        f"({seen.passes} x {flops['trained'] / 1e9:,.1f}{frozen})\n"
        f"{cluster.nodes} x {cluster.devices} devices of {cluster.memory_gib:g} GiB "
        f"({cluster.reserved_gib:g} reserved), {cluster.peak_tflops:g} TFLOP/s at an MFU of {cluster.mfu:g}, "
        f"${cluster.price:g} an hour"
    )


def table(plans: Sequence[Plan]) -> Table:
    """Memory, batch, time and cost, a column for each strategy."""
    name, unit = ("GiB", GIB) if plans[0].total >= GIB else ("MiB", MIB)
    found = Table(f"{name} on a device", box=box.SIMPLE_HEAD)
    for p in plans:
        found.add_column(str(p.strategy).replace(" + ", " +\n"), justify="right")
    for kind in plans[0].memory:
        found.add_row(kind, *(f"{p.memory[kind] / unit:.2f}" for p in plans))
    found.add_row("total", *(f"{p.total / unit:.2f}" for p in plans), end_section=True)
    found.add_row("micro-batch", *(f"{p.micro_batch:,}" for p in plans))
    found.add_row("accumulated", *(f"{p.accumulate:,}" for p in plans))
    largest = [f"{p.largest:,}" + "+" * (p.largest == MOST) if p.largest else "none" for p in plans]
    found.add_row("largest that fits", *largest)
    rows: list[tuple[str, list[str]]] = [
        ("images/s", [f"{p.images_per_second:,.0f}" for p in plans]),
        ("time", [f"{p.days:,.1f} days" if p.days >= 1 else duration(p.days * 86_400) for p in plans]),
        ("cost", [f"${p.cost:,.0f}" for p in plans]),
    ]
    for label, cells in rows:
        found.add_row(label, *(cell if p.largest else "-" for cell, p in zip(cells, plans, strict=True)))
    return found


def verdicts(cluster: Cluster, plans: Sequence[Plan]) -> list[str]:
    """The strategies that do not fit, and the overrides of the fastest that does."""
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
