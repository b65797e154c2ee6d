"""ldm-plan: memory, time and cost of a training run on a cluster, before the first GPU hour."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ldm.cli.app import entry
from ldm.cli.train import SUPPLIED
from ldm.utils.construct import construct
from ldm.utils.errors import UserError


@entry("plan", supplied=SUPPLIED, unneeded=("data", "first_stage.data", "init_checkpoint"))
def main(config: dict[str, Any]) -> None:
    """Print the plan of each stage that the config trains, and write it to `json`."""
    path = config["json"]
    if path is not None and Path(path).exists():
        raise UserError(f"{path} exists; choose another file", "json")
    cluster = construct(config["cluster"], "cluster")

    from rich.console import Console

    from ldm.planning.estimate import plans_of
    from ldm.planning.report import as_json, head, table, verdicts
    from ldm.planning.stages import simulated_steps, stages_of

    stages, report = stages_of(config), []
    for stage in stages:
        cluster.share_of(stage.batch_size)
    console = Console(highlight=False, soft_wrap=True)
    for stage in stages:
        steps = simulated_steps(stage, cluster)
        plans = plans_of(steps, cluster, stage.batch_size, stage.max_steps, stage.shardable)
        console.print(head(stage, steps[False], cluster), table(plans), *verdicts(cluster, plans), sep="\n")
        console.print()
        report.append({"stage": stage.name, **as_json(steps[False], plans)})
    if path is not None:
        Path(path).write_text(json.dumps({"cluster": asdict(cluster), "stages": report}, indent=1))
        print(path)


if __name__ == "__main__":
    raise SystemExit(main())
