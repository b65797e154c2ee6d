"""ldm-convert: checkpoints from any format to any other."""

from pathlib import Path
from typing import Any

from ldm.cli.app import entry
from ldm.utils.errors import UserError


@entry("convert")
def main(config: dict[str, Any]) -> None:
    """Reads `input` and writes `output`."""
    from ldm.checkpoints import convert_checkpoint
    from ldm.utils.device import as_dtype

    convert_checkpoint(
        config["input"],
        config["output"],
        format=config["format"],
        dtype=None if config["dtype"] is None else as_dtype(config["dtype"]),
        overwrite=config["overwrite"],
        variant=config["variant"],
        prediction=config["prediction"],
        ema=config["ema"],
        lora=_only("lora", config["lora"]),
        lora_scale=float(_only("lora_scale", config["lora_scale"])),
    )
    print(Path(config["output"]))


def _only(key: str, value: Any) -> Any:
    """A value, or the only one of a list."""
    if isinstance(value, list) and len(value) != 1:
        raise UserError(f"must be one: merge several in turn, got {len(value)}", key)
    return value[0] if isinstance(value, list) else value


if __name__ == "__main__":
    raise SystemExit(main())
