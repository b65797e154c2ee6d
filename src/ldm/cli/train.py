"""ldm-train: first stage, diffusion model, samples, scores, report."""

import os
from typing import Any

from ldm.cli.app import entry
from ldm.training.distributed.slurm import requeued_when_stopped
from ldm.utils.distributed import launched

SUPPLIED = {
    "task": ("autoencoder",),
    "trainer": ("callbacks", "logger", "plugins"),
}


@entry("train", supplied=SUPPLIED, resumable=True)
def main(config: dict[str, Any]) -> None:
    """Train what the config describes and write a run directory with a report."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if config["dry_run"]:
        from ldm.planning.dry_run import dry_run

        print("\n".join(dry_run(config, config["paths"]["run"])))
        return
    with requeued_when_stopped(launched()[0]):
        from ldm.training import run

        run(config, config["paths"]["run"])


if __name__ == "__main__":
    raise SystemExit(main())
