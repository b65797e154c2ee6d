"""ldm-ema: the average of a run's weights over any horizon, after the training."""

from pathlib import Path
from typing import Any

from ldm.cli.app import entry
from ldm.utils.errors import UserError


@entry("ema")
def main(config: dict[str, Any]) -> None:
    """Reads the snapshots of `run` and writes `output`."""
    from ldm.checkpoints.native import save_model
    from ldm.training.posthoc_ema import posthoc_average
    from ldm.utils.device import as_dtype

    output, dtype = Path(config["output"]), as_dtype(config["dtype"])
    if output.suffix != ".safetensors":
        raise UserError(f"output: must end in .safetensors, got {output}")
    if output.exists() and not config["overwrite"]:
        raise UserError(f"output: {output} exists: choose another name or overwrite=true")
    numbers = {name: float(config[name]) for name in ("sigma_rel", "max_error")}
    model = posthoc_average(config["run"], images=config["images"], **numbers)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_model(output, model.components, model.config, dtype=dtype)
    print(output)


if __name__ == "__main__":
    raise SystemExit(main())
