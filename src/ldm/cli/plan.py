"""ldm-plan: memory, time and cost of a training run on a cluster, before the first GPU hour."""

import json
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from ldm.cli.app import entry
from ldm.cli.config import plain
from ldm.cli.train import SUPPLIED
from ldm.utils.construct import construct
from ldm.utils.errors import UserError


@entry("plan", supplied=SUPPLIED, unneeded=("data", "first_stage.data", "init_checkpoint"))
def main(cfg: DictConfig) -> None:
    """Prints the plan of each stage that the config trains, and writes it to `json`."""
    if cfg.json is not None and Path(cfg.json).exists():
        raise UserError(f"{cfg.json} exists; choose another file", "json")
    config = plain(cfg)
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
    if config["json"] is not None:
        Path(config["json"]).write_text(json.dumps({"cluster": asdict(cluster), "stages": report}, indent=1))
        print(config["json"])


if __name__ == "__main__":
    raise SystemExit(main())
