"""Command lines of ldm-sample as plain requests: the images to sample, their settings and their files."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ldm.cli.outputs import output_paths
from ldm.cli.replay import replayed_path, replayed_request
from ldm.utils.distributed import launched
from ldm.utils.errors import UserError
from ldm.utils.seeds import as_seeds
from ldm.utils.text_files import lines_of, read_text


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


def work_of(config: Mapping[str, Any], typed: Collection[str] = ()) -> Work:
    """The work of a command line: a replay, or prompts.

    Args:
        config: of the command.
        typed: keys that the command line sets, which a replay uses in place of the recorded values.

    Raises: UserError for arguments that do not fit together.
    """
    if config["replay"] is not None:
        return replayed(config, typed)
    for name in ("image", "mask"):
        if config.get(name) == "???":
            raise UserError(f"needs a value ({name}=...)", name)
    prompts, size = read_prompts(config), config["batch_size"]
    images, paths = items(config, prompts), output_paths(config, prompts)
    rank, world, _ = launched()
    batches = [
        Batch(images[start : start + size], dict(enumerate(paths[start : start + size])))
        for start in range(0, len(images), size)
    ]
    return Work(request_of(config), batches[rank::world], config["scale"], None)


def replayed(config: Mapping[str, Any], typed: Collection[str] = ()) -> Work:
    """The work that samples the image of a PNG again, with the typed settings.

    Raises: UserError if the PNG has no recipe, or for settings that cannot be used.
    """
    from ldm.pipelines.recipe import read_recipe

    recipe = read_recipe(config["replay"])
    request, batch, index, wanted = replayed_request(recipe, config, request_of(config), typed)
    scale = config["scale"] if "scale" in typed else recipe.get("scale", 1)
    return Work(request, [Batch(batch, {index: replayed_path(config)})], scale, wanted)


def request_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the config that decides on the pixels, plain types only."""
    from ldm.pipelines.recipe import FILES, MODELS
    from ldm.pipelines.request import CALL, MODEL, NODES, READING

    names = ("kind", *MODELS, "size", *CALL, *READING, *MODEL, *FILES, *NODES)
    request = {name: config[name] for name in names if name in config}
    for name in ("guidance_scale", "eta", "strength", "lora_scale"):  # 4 on the command line is an int
        request |= {name: _each(float, request[name])} if request.get(name) is not None else {}
    for name in (*FILES, *MODELS):
        if request.get(name) is not None:
            request[name] = _each(partial(_absolute, is_file=name in FILES), request[name])
    return request


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """The value of a function for a value, or for each of a list."""
    return [function(v) for v in value] if isinstance(value, list) else function(value)


def _absolute(path: str, is_file: bool) -> str:
    """The path from the root; a name of the hub stays."""
    return str(Path(path).absolute()) if is_file or Path(path).exists() else path


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
        return [None] * count
    if prompt is not None:
        texts = [prompt] if isinstance(prompt, str) else prompt
        if not texts:
            raise UserError("prompt: must be a text or a list of at least one text, got []")
        return list(texts)
    path = Path(file)
    if not path.is_file():
        raise UserError(f"prompts: no file at {path}")
    try:
        lines = [line.strip(" \t") for line in lines_of(read_text(path))]
    except UserError as error:
        raise UserError(str(error), "prompts") from error
    if not (found := [line for line in lines if line.strip()]):
        raise UserError(f"prompts: {path} holds no prompt")
    return found


def items(config: Mapping[str, Any], prompts: Sequence[str | None]) -> list[dict[str, Any]]:
    """Prompt, negative prompt, seed and number of each image, as the pipelines count them.

    Raises: UserError if the seeds or negative prompts are not as many as they must be.
    """
    each, negative, seed = config["num_images_per_prompt"], config["negative_prompt"], config["seed"]
    seed, count = as_seeds(seed), len(prompts) * each
    negatives = [negative] * len(prompts) if negative is None or isinstance(negative, str) else list(negative)
    seeds = [seed] * count if isinstance(seed, int) else seed
    for name, values, wanted in (("negative_prompt", negatives, len(prompts)), ("seed", seeds, count)):
        if len(values) != wanted:
            raise UserError(f"{name}: must be one or {wanted}, got {len(values)}")
    return [
        {
            "prompt": prompts[i // each],
            "negative_prompt": negatives[i // each],
            "seed": seeds[i],
            "number": i if isinstance(seed, int) else 0,
        }
        for i in range(count)
    ]
