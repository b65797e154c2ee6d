"""Is what ldm-plan says so? Its memory against measured peaks on a CPU, its speed against published runs.

python experiments/sd_scale/plan.py      # writes plan.md beside this file, in about five minutes
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.profiler import ProfilerActivity, profile

from ldm.cli.compose import compose
from ldm.data.synthetic import SyntheticData
from ldm.planning.estimate import STRATEGIES, Cluster, Plan, plan
from ldm.planning.memory_tracker import size_of
from ldm.planning.simulate import Setting, simulate
from ldm.planning.simulated_step import SimulatedStep
from ldm.planning.stages import plain_nets, stages_of
from ldm.training.distributed.sharding import recompute
from ldm.training.lightning_internals import quieten_lightning
from ldm.utils.construct import construct

HERE = Path(__file__).parent

# README of github.com/mosaicml/diffusion: Stable Diffusion 2.0 base, latents and text encoded ahead of time.
IMAGES = {256: 1_126_400_000, 512: 1_740_800_000}
PUBLISHED = {  # A100s: images/s at 256 and at 512 pixels, days
    8: (1100, 290, 81.33),
    16: (2180, 585, 40.42),
    32: (4080, 1195, 20.06),
    64: (8530, 2340, 10.14),
    128: (11600, 4590, 5.51),
}
LIVE = 1.4  # "expect a 1.4x increase in time" where they are not

SMALL = [
    "experiment=sd15",
    "data=synthetic",
    "data.image_size=128",
    "task.cache_latents=false",
    "backbone.channels=[64,128,256,256]",
    "backbone.context_dim=64",
    "autoencoder.channels=[32,32,64,64]",
    "text_encoder.width=64",
    "text_encoder.layers=2",
    "text_encoder.num_heads=2",
    "trainer=cpu",
]
EMOJI = ["experiment=emoji", "data=synthetic", "data.image_size=64"]
CASES = [
    (EMOJI, 32, "32-true", False),
    (EMOJI, 32, "bf16-mixed", False),
    (SMALL, 4, "32-true", False),
    (SMALL, 16, "32-true", False),
    (SMALL, 16, "bf16-mixed", False),
    (SMALL, 16, "32-true", True),
    (SMALL, 16, "bf16-mixed", True),
]


def composed(*overrides: str) -> dict[str, Any]:
    """The config of ldm-plan, plain."""
    return compose("plan", ["paths.run=/nowhere", *overrides])


def cluster_of(*overrides: str) -> Cluster:
    """The cluster of a config."""
    return construct(composed(*overrides)["cluster"], "cluster")


def planned_peak(config: dict[str, Any], batch: int, precision: str, checkpointing: bool) -> int:
    """Bytes that the plan has for one process on a CPU."""
    setting = Setting(precision=precision, checkpointing=checkpointing)
    stage = stages_of(config)[-1]
    seen = simulate(stage.make, setting, stage.image_size)
    return sum(seen.state.values()) + sum(seen.peak(batch))


def real(config: dict[str, Any]) -> pl.LightningModule:
    """The diffusion model of a config, for training on the CPU."""
    config = plain_nets(config)
    autoencoder = construct(config["autoencoder"], "autoencoder")()
    return construct(config["task"], "task", autoencoder=autoencoder)


def train(
    make: Callable[[], pl.LightningModule], batch: int, precision: str, checkpointing: bool, image_size: int
) -> pl.LightningModule:
    """A module after three real steps of Lightning's Trainer."""
    module = make()
    module.configure_model()
    if checkpointing:
        recompute(module.probe(image_size, precomputed=False).net)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            precision=precision,
            max_steps=3,
            gradient_clip_val=1.0 if module.automatic_optimization else None,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, datamodule=SyntheticData(batch_size=batch, image_size=image_size))
    return module


def allocated_peak(
    make: Callable[[], pl.LightningModule], batch: int, precision: str, checkpointing: bool, image_size: int
) -> int:
    """Most bytes that torch's CPU allocator had handed out at once during three steps, nets and all.

    On a busy machine the profiler may lose events. It then ends with less than nets and optimizer,
    which are still there, and the steps are made again.
    """
    for _ in range(3):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            module = train(make, batch, precision, checkpointing, image_size)
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        trained = [p for p in module.parameters() if p.requires_grad]
        if held >= size_of(module.parameters()) + 2 * size_of(trained):
            return peak
    raise RuntimeError("the profiler lost events three times: the machine is too busy to measure")


def resident_peak(overrides: Sequence[str], batch: int, precision: str, checkpointing: bool) -> int:
    """By how many bytes the resident memory of a new process grows in three steps, at its highest."""
    command = [
        sys.executable,
        __file__,
        "resident",
        json.dumps([list(overrides), batch, precision, checkpointing]),
    ]
    small = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=small, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def resident(overrides: list[str], batch: int, precision: str, checkpointing: bool) -> int:
    """The same in this process, after a small step and an import, for what a process has only once."""

    def held(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

    importlib.import_module("open_clip")
    tiny, config = composed("experiment=tiny"), composed(*overrides)
    train(lambda: real(tiny), 4, precision, checkpointing, 16)
    before = held("VmRSS")
    train(lambda: real(config), batch, precision, checkpointing, config["data"]["image_size"])
    return held("VmHWM") - before


def memory_rows() -> list[str]:
    """Planned and measured peaks of real steps."""
    rows = []
    for overrides, batch, precision, checkpointing in CASES:
        about, config = (batch, precision, checkpointing), composed(*overrides)
        wanted = planned_peak(config, *about)
        found = allocated_peak(partial(real, config), *about, config["data"]["image_size"])
        grown = resident_peak(overrides, *about)
        name = "emoji" if overrides is EMOJI else "SD 1.5, a fifth as wide"
        cells = [name, batch, precision, "yes" if checkpointing else "no"]
        cells += [f"{wanted / 1e6:,.1f}", f"{found / 1e6:,.1f}", f"{wanted / found - 1:+.1%}"]
        cells += [f"{grown / 1e6:,.1f}", f"{wanted / grown - 1:+.1%}"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
        print(rows[-1], flush=True)
    return rows


def sd2(image_size: int, precomputed: bool = True) -> dict[bool, SimulatedStep]:
    """Steps of Stable Diffusion 2's base model, with checkpointing and without."""
    stage = stages_of(composed("experiment=sd2_base", "task.cache_latents=false"))[-1]
    setting = partial(Setting, precision="bf16-mixed", gpu=True, precomputed=precomputed, accumulate=True)
    return {c: simulate(stage.make, setting(checkpointing=c), image_size) for c in (False, True)}


def speeds(steps: dict[int, dict[bool, SimulatedStep]], cluster: Cluster) -> dict[int, Plan]:
    """The plans of both phases by DDP without checkpointing."""
    return {s: plan(steps[s], cluster, STRATEGIES[0], 2048, IMAGES[s]) for s in steps}


def speed_rows(steps: dict[int, dict[bool, SimulatedStep]]) -> list[str]:
    """Planned and published speeds and days."""
    rows = []
    for devices, (*published, days) in PUBLISHED.items():
        cluster = cluster_of("cluster=8xa100_40gb", f"cluster.nodes={devices // 8}")
        plans = speeds(steps, cluster)
        cells = [str(devices)]
        for found, p in zip(published, plans.values(), strict=True):
            cells += [f"{p.images_per_second:,.0f}", f"{found:,}", f"{p.images_per_second / found - 1:+.1%}"]
        total = sum(p.days for p in plans.values())
        cells += [f"{total:.2f}", f"{days}", f"{total / days - 1:+.1%}"]
        rows.append("| " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    return rows


def live_factor(
    steps: dict[int, dict[bool, SimulatedStep]], live: dict[int, dict[bool, SimulatedStep]]
) -> float:
    """By how much FLOPs grow over both phases when latents and text are not encoded ahead of time."""
    both = [sum(IMAGES[s] * seen[s][False].model_flops for s in IMAGES) for seen in (live, steps)]
    return both[0] / both[1]


def main() -> None:
    """Writes plan.md."""
    quieten_lightning()
    torch.set_num_threads(1)
    memory = memory_rows()
    steps = {s: sd2(s) for s in IMAGES}
    implied = {s: PUBLISHED[8][i] * steps[s][False].model_flops / 8 / 312e12 for i, s in enumerate(IMAGES)}
    live = live_factor(steps, {s: sd2(s, precomputed=False) for s in IMAGES})
    text = (
        (HERE / "plan_template.md")
        .read_text()
        .format(
            memory="\n".join(memory),
            speed="\n".join(speed_rows(steps)),
            small=f"{steps[256][False].model_flops / 1e9:,.1f}",
            large=f"{steps[512][False].model_flops / 1e9:,.1f}",
            mfu_small=f"{implied[256]:.3f}",
            mfu_large=f"{implied[512]:.3f}",
            mfu=cluster_of("cluster=8xa100_40gb").mfu,
            live=f"{live:.2f}",
            published_live=LIVE,
        )
    )
    (HERE / "plan.md").write_text(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["resident"]:
        quieten_lightning()
        torch.set_num_threads(1)
        print(resident(*json.loads(sys.argv[2])))
    else:
        main()
