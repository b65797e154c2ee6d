"""Samples and scores of a trained model: prompts, retrieval, captions and pairs held out of training."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.evaluation.retrieval import retrieval
from ldm.utils.image_io import make_grid, save_png, to_uint8

log = logging.getLogger(__name__)
SampleImages = Callable[[list[str], int], Tensor]


def score(config: dict[str, Any], sample_images: SampleImages, data: Any, run_dir: Path) -> dict[str, Any]:
    """Draws and scores what the config's `evaluation` asks for and writes the pictures.

    Args:
        config: the `evaluation` node.
        sample_images: maps (captions, seed) to uint8 images (n, 3, h, w).
        data: the data module.
        run_dir: where `samples/*.png` are written.

    Returns: the parts of the run's summary.
    """
    folder, seed = run_dir / "samples", config["seed"]
    folder.mkdir(exist_ok=True)
    parts: dict[str, Any] = {}
    if config["prompts"]:
        prompts = list(config["prompts"])
        images = sample_images(prompts, config["seed"])
        save_png(make_grid(images, columns=8), folder / "prompts.png", {"prompts": "\n".join(prompts)})
    if captions := spread(data.training_captions(), config["retrieval"]):
        parts["retrieval"] = score_retrieval(captions, sample_images, data, seed, folder)
    if config["held_out"]:
        parts["held_out"] = score_held_out(
            list(config["held_out"]), sample_images, data, config["seed"], folder
        )
    if config["held_out_pairs"]:
        parts["held_out_pairs"] = score_pairs(
            config["held_out_pairs"], sample_images, data, config["seed"], folder
        )
    return parts


def spread(items: list[Any], limit: int | None) -> list[Any]:
    """At most `limit` items, evenly spread over the list; all of them for None."""
    if limit is None or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def score_retrieval(
    captions: list[tuple[int, str]], sample_images: SampleImages, data: Any, seed: int, folder: Path
) -> dict[str, Any]:
    """How often the nearest of all reference images is the one that was prompted."""
    names = [caption for _, caption in captions]
    targets = torch.tensor([i for i, _ in captions])
    images = sample_images(names, seed)
    references, labels = data.reference_images(), data.reference_captions()
    found = retrieval(images, references, targets)
    save_png(make_grid(images, columns=16), folder / "all.png", {"prompts": "\n".join(names)})
    misses = [
        {"caption": name, "got": labels[got]}
        for name, got, target in zip(names, found.nearest.tolist(), targets.tolist(), strict=True)
        if got != target
    ]
    log.info("retrieval: top-1 %.3f, top-5 %.3f of %d captions", found.top1, found.top5, len(names))
    return {
        "top1": round(found.top1, 4),
        "top5": round(found.top5, 4),
        "n": len(names),
        "references": len(labels),
        "misses": misses,
    }


def score_held_out(
    captions: list[str], sample_images: SampleImages, data: Any, seed: int, folder: Path
) -> list[dict[str, Any]]:
    """For captions never trained on: the reference image that is nearest to their sample."""
    labels = data.reference_captions()
    images = sample_images(captions, seed)
    save_png(
        make_grid(images, columns=len(captions)), folder / "held_out.png", {"prompts": "\n".join(captions)}
    )
    targets = torch.tensor([labels.index(caption) for caption in captions])
    nearest = retrieval(images, data.reference_images(), targets).nearest.tolist()
    return [
        {"caption": caption, "nearest": labels[got], "correct": labels[got] == caption}
        for caption, got in zip(captions, nearest, strict=True)
    ]


def score_pairs(
    limit: int, sample_images: SampleImages, data: Any, seed: int, folder: Path
) -> dict[str, Any]:
    """For (emoji, background) pairs never trained on: is the background right, and the emoji?

    The background is judged by the mean colour of the image's four corners (emoji that reach into one are
    left out), the emoji by the nearest of all emoji on the prompted background.
    """
    open_corners = corners(data.opacity).amax((1, 2)) == 0
    pairs = spread([pair for pair in data.held_out_pair_list() if open_corners[pair[0]]], limit)
    images = sample_images([data.caption(k, c) for k, c in pairs], seed)
    save_png(make_grid(images[:64], columns=16), folder / "held_out_pairs.png")
    keys, colours = torch.tensor(pairs).T
    background = torch.cdist(corners(images).float().mean(1), data.colours).argmin(1) == colours
    emoji = torch.zeros(len(pairs), dtype=torch.bool)
    everything = torch.arange(len(data.names))
    for colour in colours.unique():
        chosen = colours == colour
        references = to_uint8(data.render(everything, colour.expand(len(everything))))
        emoji[chosen] = retrieval(images[chosen], references, keys[chosen]).rank == 0
    result = {
        "n": len(pairs),
        "background": round(background.float().mean().item(), 4),
        "emoji": round(emoji.float().mean().item(), 4),
    }
    log.info("held-out pairs: background %(background).3f, emoji %(emoji).3f of %(n)d", result)
    return result


def corners(images: Tensor) -> Tensor:
    """The pixels one step inside the four corners, (n, 4, c)."""
    return torch.stack([images[:, :, y, x] for y in (1, -2) for x in (1, -2)], dim=1)
