"""ldm-data: what a data set yields, in numbers and as a picture; tar shards, their index, speed."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.cli.app import entry
from ldm.cli.config import build
from ldm.utils.errors import UserError

WORDS = ("show", "index", "bench", "precompute", "cifar10", "imagefolder", "hf")
SHARDS = {"index": "laion", "precompute": "laion", "cifar10": "cifar10", "imagefolder": "imagefolder"}


def main(argv: Sequence[str] | None = None) -> int:
    """ldm-data [WORD] ...: a leading word, one of `WORDS`, is the action and picks the data."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in WORDS:
        action = words.pop(0)
        given = any(word.startswith("data=") for word in words)
        data = SHARDS.get(action)
        words += [f"action={action}"] + ([f"data={data}"] if data and not given else [])
    return command(words)


@entry("data")
def command(config: dict[str, Any]) -> None:
    """Does what the action says."""
    cfg = OmegaConf.create(config)
    if cfg.action not in WORDS:
        raise UserError(f"action: must be one of {', '.join(WORDS)}, got {cfg.action!r}")
    if cfg.action == "show":
        show(cfg)
        return
    from ldm.cli.data_tasks import TASKS
    from ldm.utils.device import set_threads

    set_threads(cfg.threads)
    TASKS[cfg.action](cfg)


def show(cfg: DictConfig) -> None:
    """Prints what the data set holds and draws its first samples."""
    path = Path(cfg.output or "outputs/data.png")
    if path.exists() and not cfg.overwrite:
        raise UserError(f"output: {path} exists; choose another output or overwrite=true")

    import torch

    from ldm.cli.data_tasks import images_per_second
    from ldm.utils.device import set_threads
    from ldm.utils.image_io import make_grid, save_png, to_uint8

    set_threads(cfg.threads)
    data = build(cfg.data)
    if hasattr(data, "verify"):
        raise UserError("data: latents hold no images to show; ldm-data bench data=latents measures them")
    keys = data.training_keys()
    print(f"{len(keys)} images, {data.steps_per_epoch} steps an epoch of {data.batch_size}")
    print(f"{images_per_second(data, cfg.seconds):,.0f} images/s from the loader")
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
