"""Command lines of ldm-sample as plain requests: the images to sample, their settings and their files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ldm.cli.outputs import output_paths
from ldm.utils.distributed import launched
from ldm.utils.errors import UserError


class Batch(NamedTuple):
    """Images that are sampled together.

    Attributes:
        items: prompt, negative prompt, seed and number of each.
        paths: where images are written, by their index in the batch; the others are dropped.
    """

    items: Sequence[Mapping[str, Any]]
    paths: dict[int, Path]


class Work(NamedTuple):
    """Everything that a command line requests.

    Attributes:
        request: settings of the call, plain types only.
        batches: the share of this process.
        scale: by which the pictures are enlarged.
        wanted: digests that the files must have; None for any.
    """

    request: dict[str, Any]
    batches: list[Batch]
    scale: int
    wanted: dict[str, str] | None


def work_of(config: Mapping[str, Any]) -> Work:
    """The work of a command line: a replay, or prompts.

    Raises: UserError for arguments that do not fit together.
    """
    if config["replay"] is not None:
        return replayed(config)
    if (size := config["batch_size"]) < 1:
        raise UserError(f"batch_size: must be at least 1, got {size}")
    prompts = read_prompts(config)
    images, paths = items(config, prompts), output_paths(config, prompts)
    rank, world, _ = launched()
    batches = [
        Batch(images[start : start + size], dict(enumerate(paths[start : start + size])))
        for start in range(0, len(images), size)
    ]
    return Work(request_of(config), batches[rank::world], config["scale"], None)


def replayed(config: Mapping[str, Any]) -> Work:
    """The work that samples the image of a PNG again.

    Raises: UserError if the PNG has no recipe.
    """
    from ldm.pipelines.recipe import read_recipe, request_in

    recipe = read_recipe(config["replay"])
    request, batch, index = request_in(recipe)
    path = Path(config["output"] or Path("outputs") / Path(config["replay"]).name)
    return Work(request, [Batch(batch, {index: path})], recipe.get("scale", 1), recipe["sha256"])


def request_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the config that decides on the pixels, plain types only."""
    from ldm.pipelines.recipe import FILES, MODELS
    from ldm.pipelines.request import CALL, MODEL, NODES, READING

    names = ("kind", *MODELS, "size", *CALL, *READING, *MODEL, *FILES, *NODES)
    request = {name: config[name] for name in names if name in config}
    for name in ("guidance_scale", "eta", "strength", "lora_scale"):  # 4 on the command line is an int
        if name in request:
            request[name] = as_floats(request[name])
    for name in (*FILES, *MODELS):
        value = request.get(name)
        if isinstance(value, list | tuple):
            request[name] = [str(Path(path).absolute()) for path in value]
        elif value is not None and (name in FILES or Path(value).exists()):
            request[name] = str(Path(value).absolute())
    return request


def as_floats(value: Any) -> Any:
    """Whole numbers, also those in a list, as floats; other values as they are."""
    if isinstance(value, list):
        return [as_floats(v) for v in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def read_prompts(config: Mapping[str, Any]) -> Sequence[str | None]:
    """The prompts of the command line or of a file, one a line; None for images of an unconditional model.

    Raises: UserError if there is none, or more than one source was given.
    """
    prompt, file, count = config["prompt"], config["prompts"], config["num_images"]
    if sum(value is not None for value in (prompt, file, count)) != 1:
        raise UserError(
            "prompt: give either prompt=TEXT (or a list), or prompts=FILE with one prompt a line, or "
            "num_images=NUMBER for an unconditional model"
        )
    if count is not None:
        if count < 1:
            raise UserError(f"num_images: must be at least 1, got {count}")
        return [None] * count
    if prompt is not None:
        return [prompt] if isinstance(prompt, str) else [str(p) for p in prompt]
    path = Path(file)
    if not path.is_file():
        raise UserError(f"prompts: no file at {path}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    if not (found := [line for line in lines if line]):
        raise UserError(f"prompts: {path} holds no prompt")
    return found


def items(config: Mapping[str, Any], prompts: Sequence[str | None]) -> list[dict[str, Any]]:
    """Prompt, negative prompt, seed and number of each image, as the pipelines count them.

    Raises: UserError if the seeds or negative prompts are not as many as they must be.
    """
    each, negative, seed = config["num_images_per_prompt"], config["negative_prompt"], config["seed"]
    if each < 1:
        raise UserError(f"num_images_per_prompt: must be at least 1, got {each}")
    count, one_seed = len(prompts) * each, isinstance(seed, int)
    negatives = [negative] * len(prompts) if negative is None or isinstance(negative, str) else list(negative)
    seeds = [seed] * count if one_seed else list(seed)
    for name, values, wanted in (("negative_prompt", negatives, len(prompts)), ("seed", seeds, count)):
        if len(values) != wanted:
            raise UserError(f"{name}: must be one or {wanted}, got {len(values)}")
    return [
        {
            "prompt": prompts[i // each],
            "negative_prompt": negatives[i // each],
            "seed": seeds[i],
            "number": i if one_seed else 0,
        }
        for i in range(count)
    ]
