"""ldm-data: what a data set yields, in numbers and as a picture."""

import itertools
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ldm.cli.app import entry
from ldm.cli.config import ConfigError, build


def speed(data: Any, seconds: float = 1.0) -> float:
    """Images per second of the loader, measured for about `seconds`."""
    loader = iter(data.train_dataloader())
    next(loader)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        images += len(next(loader)["key"])
    return images / (time.perf_counter() - start)


@entry("data")
def main(cfg: DictConfig) -> None:
    """Prints what the data set holds and draws its first samples."""
    path = Path(cfg.output or "outputs/data.png")
    if path.exists() and not cfg.overwrite:
        raise ConfigError(f"output: {path} exists; choose another output or overwrite=true")

    import torch

    from ldm.utils.device import set_threads
    from ldm.utils.image_io import make_grid, save_png, to_uint8

    set_threads(cfg.threads)
    data = build(cfg.data)
    keys = data.training_keys()
    print(f"{len(keys)} images, {data.steps_per_epoch} steps an epoch of {data.batch_size}")
    print(f"{speed(data):,.0f} images/s from the loader")
    count = -(-cfg.samples // data.batch_size)
    batches = list(itertools.islice(iter(data.train_dataloader()), count))
    captions = [caption for batch in batches for caption in batch["caption"]][: cfg.samples]
    images = torch.cat([batch["image"] for batch in batches])[: cfg.samples]
    for caption in captions[:8]:
        print(f"  {caption}")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(make_grid(to_uint8(images), columns=8), path, {"captions": "\n".join(captions)})
    print(path)


if __name__ == "__main__":
    raise SystemExit(main())
