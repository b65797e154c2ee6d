"""ldm-train: first stage, diffusion model, samples, scores, report."""

import os
from typing import Any

from ldm.cli.app import entry
from ldm.training.distributed.slurm import requeued_when_stopped

SUPPLIED = {
    "task": ("autoencoder",),
    "trainer": ("callbacks", "logger", "plugins"),
}


@entry("train", supplied=SUPPLIED, resumable=True)
def main(config: dict[str, Any]) -> None:
    """Train what the config describes and write a run directory with a report."""
    from omegaconf import OmegaConf

    cfg = OmegaConf.create(config)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if cfg.dry_run:
        from ldm.cli.dry import say_what_would_happen

        say_what_would_happen(cfg)
        return
    with requeued_when_stopped(launched()[0]):
        from ldm.cli.stages import Run

        Run(cfg).execute()


if __name__ == "__main__":
    raise SystemExit(main())
