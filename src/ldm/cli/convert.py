"""ldm-convert: checkpoints from any format to any other."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ldm.cli.app import entry


@entry("convert")
def main(config: dict[str, Any]) -> None:
    """Reads `input` and writes `output`."""
    cfg = OmegaConf.create(config)
    from ldm.checkpoints import convert_checkpoint
    from ldm.utils.device import as_dtype

    convert_checkpoint(
        cfg.input,
        cfg.output,
        format=cfg.format,
        dtype=None if cfg.dtype is None else as_dtype(cfg.dtype),
        overwrite=cfg.overwrite,
        variant=cfg.variant,
        prediction=cfg.prediction,
        ema=cfg.ema,
        lora=cfg.lora,
        lora_scale=float(cfg.lora_scale),
    )
    print(Path(cfg.output))


if __name__ == "__main__":
    raise SystemExit(main())
