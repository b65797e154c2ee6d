"""ldm-train: first stage, diffusion model, samples, scores, report."""

import os

from omegaconf import DictConfig

from ldm.cli.app import entry
from ldm.training.distributed.slurm import requeued_when_stopped
from ldm.utils.distributed import launched

SUPPLIED = {
    "task": ("autoencoder",),
    "trainer": ("callbacks", "logger", "plugins"),
}


def _how_to_go_on(cfg: DictConfig) -> str:
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    overrides = " ".join(hydra.overrides.task)
    return f"stopped; go on with: ldm-train {overrides} hydra.run.dir={hydra.runtime.output_dir}"


@entry("train", supplied=SUPPLIED, interrupted=_how_to_go_on)
def main(cfg: DictConfig) -> None:
    """Trains what the config says and writes a run directory with a report."""
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
