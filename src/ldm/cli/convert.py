"""ldm-convert: checkpoints from any format to any other."""

from pathlib import Path

from omegaconf import DictConfig

from ldm.cli.app import entry


@entry("convert")
def main(cfg: DictConfig) -> None:
    """Reads `input` and writes `output`."""
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
