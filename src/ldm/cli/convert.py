"""ldm-convert: checkpoints from any format to any other."""

from pathlib import Path
from typing import Any

from ldm.cli.app import entry


@entry("convert")
def main(config: dict[str, Any]) -> None:
    """Reads `input` and writes `output`."""
    from ldm.checkpoints import convert_checkpoint
    from ldm.utils.device import as_dtype

    scale = config["lora_scale"]
    convert_checkpoint(
        config["input"],
        config["output"],
        format=config["format"],
        dtype=None if config["dtype"] is None else as_dtype(config["dtype"]),
        overwrite=config["overwrite"],
        variant=config["variant"],
        prediction=config["prediction"],
        ema=config["ema"],
        strict=config["strict"],
        vae=config["vae"],
        lora=config["lora"],
        lora_scale=[float(s) for s in scale] if isinstance(scale, list) else scale,
    )
    print(Path(config["output"]))


if __name__ == "__main__":
    raise SystemExit(main())
