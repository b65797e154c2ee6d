"""ldm-sample: images from prompts, written as PNGs that carry their recipe."""

import json
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm.cli.app import entry
from ldm.cli.config import ConfigError, build

RECIPE = [  # settings that keep their name from the command line to the pipeline and the PNG
    "negative_prompt",
    "num_images_per_prompt",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "eta",
    "height",
    "width",
]


def slug(text: str) -> str:
    """A file name for a prompt."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "image"


def output_paths(
    output: str | None, prompts: list[str], images_per_prompt: int, overwrite: bool
) -> list[Path]:
    """Where the images go.

    Args:
        output: path of the PNG, or None for outputs/PROMPT.png.
        prompts: the prompts.
        images_per_prompt: images of each; with more than one image in all, paths are numbered.
        overwrite: whether files may exist.

    Raises: ConfigError if a file exists, or is no PNG.
    """
    if output is not None and Path(output).suffix.lower() != ".png":
        raise ConfigError(f"output: must end in .png, got {output!r}")
    count = len(prompts) * images_per_prompt
    base = [Path(output) if output else Path("outputs") / f"{slug(p)}.png" for p in prompts]
    paths = [
        path.with_name(f"{path.stem}-{i * images_per_prompt + j:04d}.png") if count > 1 else path
        for i, path in enumerate(base)
        for j in range(images_per_prompt)
    ]
    if not overwrite and (existing := [p for p in paths if p.exists()]):
        raise ConfigError(f"output: {existing[0]} exists; choose another output or overwrite=true")
    return paths


@entry("sample")
def main(cfg: DictConfig) -> None:
    """Samples the prompts and writes the images."""
    prompts = [cfg.prompt] if isinstance(cfg.prompt, str) else list(cfg.prompt)
    paths = output_paths(cfg.output, prompts, cfg.num_images_per_prompt, cfg.overwrite)

    from ldm.pipelines.text2img import Text2ImagePipeline
    from ldm.utils.device import pick_device, set_threads
    from ldm.utils.image_io import save_png

    set_threads(cfg.threads)
    device = pick_device(cfg.device)
    pipeline = Text2ImagePipeline.from_pretrained(cfg.checkpoint).to(device)
    given = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(given, dict)
    arguments = {name: given[name] for name in RECIPE}
    for name in ("guidance_scale", "eta"):  # 4 on the command line is an int
        arguments[name] = None if arguments[name] is None else float(arguments[name])
    images = pipeline(
        prompt=prompts,
        scheduler=_built(cfg.get("scheduler")),
        timesteps=_built(cfg.get("timesteps")),
        progress=True,
        **arguments,
    )
    assert isinstance(images, list)
    recipe = {**arguments, "checkpoint": cfg.checkpoint or "emoji", "scheduler": _plain(cfg.get("scheduler"))}
    for i, (path, image) in enumerate(zip(paths, images, strict=True)):
        own = {"prompt": prompts[i // cfg.num_images_per_prompt], "image": i, **recipe}
        path.parent.mkdir(parents=True, exist_ok=True)
        if cfg.scale > 1:
            image = image.resize((image.width * cfg.scale, image.height * cfg.scale), 0)
        save_png(image, path, {"ldm": json.dumps(own)})
        print(path)


def _built(node: DictConfig | None) -> Any:
    return None if node is None else build(node)


def _plain(node: DictConfig | None) -> Any:
    return None if node is None else OmegaConf.to_container(node, resolve=True)


if __name__ == "__main__":
    raise SystemExit(main())
