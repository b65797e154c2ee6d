"""ldm-sample: images from prompts, images and masks, written as PNGs that carry their recipe."""

import logging
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ldm.cli.app import entry
from ldm.cli.recipe import (
    CALL,
    FILES,
    NODES,
    READING,
    check_digests,
    digests,
    read_recipe,
    recipe,
    request_of,
)
from ldm.cli.sweep import sweep_folder
from ldm.utils.distributed import launched
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

PIPELINES = {"text2img": "Text2ImagePipeline", "img2img": "Image2ImagePipeline", "inpaint": "InpaintPipeline"}


def slug(text: str) -> str:
    """A file name for a prompt."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "image"


def read_prompts(cfg: DictConfig) -> list[str]:
    """The prompts of the command line or of a file, one a line; empty lines are left out.

    Raises: UserError if there is none, or both were given.
    """
    if (cfg.prompt is None) == (cfg.prompts is None):
        raise UserError("prompt: give either prompt=TEXT (or a list) or prompts=FILE with one prompt a line")
    if cfg.prompt is not None:
        return [cfg.prompt] if isinstance(cfg.prompt, str) else [str(p) for p in cfg.prompt]
    path = Path(cfg.prompts)
    if not path.is_file():
        raise UserError(f"prompts: no file at {path}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    if not (found := [line for line in lines if line]):
        raise UserError(f"prompts: {path} holds no prompt")
    return found


def output_paths(cfg: DictConfig, prompts: list[str]) -> list[Path]:
    """Where the images go: one path for each.

    Raises: UserError if it is no PNG or, for a file of prompts, no folder.
    """
    each, count = cfg.num_images_per_prompt, len(prompts) * cfg.num_images_per_prompt
    if (sweep := sweep_folder()) is not None and cfg.output is not None:
        raise UserError("output: a sweep has a folder for each job, in hydra.sweep.dir=FOLDER")
    home = sweep or Path("outputs")
    if cfg.prompts is not None:
        folder = Path(cfg.output or home / Path(cfg.prompts).stem)
        if folder.is_file() or folder.suffix.lower() == ".png":
            raise UserError(f"output: must be a folder for a file of prompts, got {folder}")
        width = max(4, len(str(count - 1)))
        paths = [folder / f"{i:0{width}d}.png" for i in range(count)]
    else:
        if cfg.output is not None and Path(cfg.output).suffix.lower() != ".png":
            raise UserError(f"output: must end in .png, got {cfg.output!r}")
        base = [Path(cfg.output) if cfg.output else home / f"{slug(p)}.png" for p in prompts]
        paths = [
            path.with_name(f"{path.stem}-{i * each + j:04d}.png") if count > 1 else path
            for i, path in enumerate(base)
            for j in range(each)
        ]
    return paths


def refuse_existing(paths: list[Path], overwrite: bool) -> None:
    """Raises UserError if one of the files exists and may not be replaced."""
    if not overwrite and (existing := [p for p in paths if p.exists()]):
        raise UserError(f"output: {existing[0]} exists; choose another output or overwrite=true")


def items(cfg: DictConfig, prompts: list[str]) -> list[dict[str, Any]]:
    """Prompt, negative prompt and seed of each image.

    Raises: UserError if the seeds or negative prompts are not as many as they must be.
    """
    each, negative, seed = cfg.num_images_per_prompt, cfg.negative_prompt, cfg.seed
    if each < 1:
        raise UserError(f"num_images_per_prompt: must be at least 1, got {each}")
    count = len(prompts) * each
    negatives = [negative] * len(prompts) if negative is None or isinstance(negative, str) else list(negative)
    seeds = [seed + i for i in range(count)] if isinstance(seed, int) else list(seed)
    for name, values, wanted in (("negative_prompt", negatives, len(prompts)), ("seed", seeds, count)):
        if len(values) != wanted:
            raise UserError(f"{name}: must be one or {wanted}, got {len(values)}")
    return [
        {"prompt": prompts[i // each], "negative_prompt": negatives[i // each], "seed": seeds[i]}
        for i in range(count)
    ]


@entry("sample")
def main(cfg: DictConfig) -> None:
    """Samples the prompts and writes the images."""
    if cfg.replay is not None:
        replay(cfg)
        return
    if cfg.batch_size < 1:
        raise UserError(f"batch_size: must be at least 1, got {cfg.batch_size}")
    prompts = read_prompts(cfg)
    images, paths = items(cfg, prompts), output_paths(cfg, prompts)
    rank, world, _ = launched()
    parts = [slice(i, i + cfg.batch_size) for i in range(0, len(images), cfg.batch_size)][rank::world]
    refuse_existing([path for part in parts for path in paths[part]], cfg.overwrite)
    with ExitStack() as stack:
        sampler = Sampler(request_of(cfg), cfg, stack)
        for part in parts:
            for i, image in enumerate(sampler(images[part])):
                sampler.save(image, paths[part][i], images[part], i, cfg.scale)
        sampler.say_evaluations()


def replay(cfg: DictConfig) -> None:
    """Makes the image of a PNG again.

    Raises: UserError if the PNG has no recipe, or what it was made from has changed.
    """
    request = read_recipe(cfg.replay)
    own = {name: request.pop(name) for name in ("prompt", "negative_prompt", "seed")}
    batch, index = request.pop("batch", [own]), request.pop("index", 0)
    scale, wanted = request.pop("scale", 1), request.pop("sha256")
    for name in ("ldm", "net_evaluations"):  # said of the image, not asked for
        request.pop(name, None)
    path = Path(cfg.output or Path("outputs") / Path(cfg.replay).name)
    refuse_existing([path], cfg.overwrite)
    with ExitStack() as stack:
        sampler = Sampler(request, cfg, stack, wanted)
        sampler.save(sampler(batch)[index], path, batch, index, scale)
        sampler.say_evaluations()


class Sampler:
    """A pipeline with the arguments of a request.

    Args:
        request: what is asked for, see `request_of`.
        cfg: device and threads.
        stack: keeps the shipped model's file while it is read.
        wanted: digests that the files must have; None for any.

    Raises: UserError for files that are not there or have changed.
    """

    def __init__(
        self, request: dict[str, Any], cfg: DictConfig, stack: ExitStack, wanted: dict[str, str] | None = None
    ) -> None:
        kind = request.get("kind")
        if kind not in PIPELINES:
            raise UserError(f"mode: must be one of {sorted(PIPELINES)}, got {kind!r}")
        for name in FILES:
            if name in request and not Path(request[name]).is_file():
                raise UserError(f"{name}: no file at {request[name]}")
        import ldm
        from ldm.pipelines.shipped import shipped_model
        from ldm.utils.device import pick_device, set_threads
        from ldm.utils.image_io import load_image

        set_threads(cfg.threads)
        checkpoint = request["checkpoint"] or stack.enter_context(shipped_model())
        self.request, self.hashes = request, digests(request, Path(checkpoint))
        if wanted is not None:
            check_digests(self.hashes, wanted)
        options = {name: request[name] for name in READING}
        self.pipeline: Any = getattr(ldm, PIPELINES[kind]).from_pretrained(
            checkpoint, device=pick_device(_own_device(cfg.device)), **options
        )
        if request.get("lora") is not None:
            self.pipeline.load_lora(request["lora"], request["lora_scale"])
        if request.get("weak_checkpoint") is not None:
            self.pipeline.load_weak(request["weak_checkpoint"], ema=request["ema"])
        if request["vae_slicing"]:
            self.pipeline.enable_vae_slicing()
        if request["vae_tiling"]:
            self.pipeline.enable_vae_tiling()
        self.arguments = {name: request[name] for name in CALL if name in request}
        self.arguments |= self._objects()
        size = tuple(request["size"]) if request.get("size") else None
        for name in FILES:
            if name in request:
                self.arguments[name] = load_image(request[name], size, "L" if name == "mask" else "RGB")

    def _objects(self) -> dict[str, Any]:
        """The objects that the request's nodes describe.

        Raises: UserError for settings without an option.
        """
        from ldm.utils.construct import reconstruct

        nodes = {name: self.request[name] for name in NODES if self.request.get(name) is not None}
        for name, node in nodes.items():
            if "_target_" not in node:
                raise UserError(f"{name}: has settings and is no option: choose one ({name}=...)")
        return {name: reconstruct(node, name) for name, node in nodes.items()}

    def __call__(self, batch: list[dict[str, Any]]) -> list[Any]:
        """Images of a batch."""
        columns = {name: [item[name] for item in batch] for name in ("prompt", "seed")}
        negatives = [item["negative_prompt"] or "" for item in batch]
        made: list[Any] = self.pipeline(
            **columns,
            negative_prompt=negatives if any(negatives) else None,
            batch_size=len(batch),
            progress=True,
            **self.arguments,
        )
        return made

    def save(self, image: Any, path: Path, batch: list[dict[str, Any]], index: int, scale: int) -> None:
        """Writes an image with its recipe and prints where it is."""
        from ldm.utils.image_io import save_png

        evaluations = image.info["net_evaluations"]
        if scale > 1:
            image = image.resize((image.width * scale, image.height * scale), 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(image, path, recipe(self.request, self.hashes, batch, index, scale, evaluations))
        print(path)

    def say_evaluations(self) -> None:
        """Logs what an image of the last batch has cost."""
        if counts := self.pipeline.net_evaluations:
            log.info("%d evaluations of the net for an image", counts[-1])


def _own_device(name: str) -> str:
    """The device of this process among several on one machine."""
    _, world, local = launched()
    if world == 1 or name not in ("auto", "cuda"):
        return name
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{local % count}" if count else name


if __name__ == "__main__":
    raise SystemExit(main())
