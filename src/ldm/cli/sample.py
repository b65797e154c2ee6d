"""ldm-sample: images from prompts, images and masks, written as PNGs that carry their recipe."""

import logging
from typing import Any

from ldm.cli.app import entry
from ldm.cli.outputs import refuse_existing
from ldm.cli.replay import typed_keys
from ldm.cli.work import work_of
from ldm.utils.distributed import launched

log = logging.getLogger(__name__)


@entry("sample", unneeded=("image", "mask"))  # a replay has them
def main(config: dict[str, Any]) -> None:
    """Sample the images and write them."""
    work = work_of(config, typed_keys())
    refuse_existing([path for batch in work.batches for path in batch.paths.values()], config["overwrite"])
    from ldm.pipelines.recipe import recipe, save_with_recipe
    from ldm.pipelines.request import load, of_batch
    from ldm.utils.device import set_threads

    set_threads(config["threads"])
    loaded = load(work.request, own_device(config["device"]), work.wanted)
    for batch in work.batches:
        images = loaded.pipeline(**of_batch(batch.items), progress=True, **loaded.arguments)
        for index, path in batch.paths.items():
            about = recipe(work.request, loaded.hashes, batch.items, index, work.scale)
            save_with_recipe(images[index], path, about)
            print(path)
    if counts := loaded.pipeline.net_evaluations:
        log.info("%d evaluations of the net for an image", counts[-1])


def own_device(name: str) -> str:
    """The device of this process among several on one machine."""
    _, world, local = launched()
    if world == 1 or name not in ("auto", "cuda"):
        return name
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{local % count}" if count else name


if __name__ == "__main__":
    raise SystemExit(main())
