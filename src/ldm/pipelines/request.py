"""Sampling by a request: a plain dict that names a checkpoint, its settings and the arguments of a call."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.checkpoints.store import of_run
from ldm.generation.reading import reading_of
from ldm.generation.settings import Settings
from ldm.pipelines.base import Pipeline
from ldm.pipelines.img2img import Image2ImagePipeline
from ldm.pipelines.inpaint import InpaintPipeline
from ldm.pipelines.recipe import FILES, Item, check_digests, digests
from ldm.pipelines.shipped import shipped_model
from ldm.pipelines.text2img import Text2ImagePipeline
from ldm.utils.construct import reconstruct
from ldm.utils.device import dtype_name
from ldm.utils.errors import UserError
from ldm.utils.image_io import load_image

KINDS: dict[str, type[Pipeline]] = {
    "text2img": Text2ImagePipeline,
    "img2img": Image2ImagePipeline,
    "inpaint": InpaintPipeline,
}
# Settings that keep their name from the command line to the pipeline and the PNG.
CALL = (
    *("num_inference_steps", "guidance_scale", "eta", "noise", "clip_skip", "height", "width", "strength"),
    *("resample", "jump_length", "prompt_weights", "long_prompts"),
)
READING = ("variant", "prediction", "ema", "strict", "vae", "dtype")
MODEL = ("vae_slicing", "vae_tiling", "lora_scale")
NODES = ("scheduler", "timesteps", "thresholding", "guidance")


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A pipeline with the arguments of a request.

    Args:
        pipeline: the pipeline, which is called with the arguments.
        arguments: of all its calls.
        hashes: of the files that were read.
        request: the settings with what was chosen automatically, which make the same image again.
    """

    pipeline: Any
    arguments: dict[str, Any]
    hashes: dict[str, str]
    request: dict[str, Any]


def load(request: Mapping[str, Any], device: str, wanted: Mapping[str, str] | None = None) -> Loaded:
    """Reads the model and the files of a request.

    Args:
        request: settings by name: "kind", those of `ldm.pipelines.recipe` and of this file.
        device: to put the model on.
        wanted: digests that the files must have; None for any.

    Raises: UserError for files that do not exist or have changed, and for settings without an option.
    """
    if (kind := request.get("kind")) not in KINDS:
        raise UserError(f"must be one of {sorted(KINDS)}, got {kind!r}", "mode")
    for name in FILES:
        if name in request and not Path(request[name]).is_file():
            raise UserError(f"no file at {request[name]}", name)
    adapters, arguments = _adapters(request), _arguments(request)
    with ExitStack() as stack:
        checkpoint = request["checkpoint"] or stack.enter_context(shipped_model())
        hashes = digests(request, of_run(Path(checkpoint)))
        check_digests(hashes, wanted or {})
        options = {name: request[name] for name in READING if name in request}  # recipes may be older
        with _found("checkpoint"):
            pipeline = KINDS[kind].from_pretrained(checkpoint, device=device, **options)
    for file, scale in adapters:
        with _found("lora"):
            pipeline.load_lora(file, scale)
    if request.get("weak_checkpoint") is not None:
        with _found("weak_checkpoint"):
            pipeline.load_weak(request["weak_checkpoint"], ema=request["ema"])
    if request.get("embeddings") is not None:
        with _found("embeddings"):
            pipeline.load_textual_inversion(request["embeddings"])
    if request["vae_slicing"]:
        pipeline.enable_vae_slicing()
    if request["vae_tiling"]:
        pipeline.enable_vae_tiling()
    given = Settings(prompt_weights=request.get("prompt_weights"), long_prompts=request.get("long_prompts"))
    reading = reading_of(given, pipeline.sampler.defaults, pipeline.text_encoder.supports)
    settled = {**request, **reading._asdict(), "dtype": dtype_name(pipeline.dtype)}
    return Loaded(pipeline=pipeline, arguments=arguments, hashes=hashes, request=settled)


@contextmanager
def _found(key: str) -> Iterator[None]:
    """Report a file that does not exist with its key."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: {error.strerror}" if error.filename else str(error), key
        ) from error


def _adapters(request: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Files of adapters with their scales.

    Raises: UserError if there are neither one scale nor as many as files.
    """
    files, scales = request.get("lora"), request.get("lora_scale", 1.0)
    files = files if isinstance(files, list) else [files] if files is not None else []
    scales = scales if isinstance(scales, list) else [scales] * len(files)
    if len(scales) != len(files):
        wanted = f"one or {len(files)}, one for each file of lora" if files else "one number without lora"
        raise UserError(f"must be {wanted}, got {len(scales)}", "lora_scale")
    return list(zip(files, scales, strict=True))


def _arguments(request: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the pipeline's calls."""
    nodes = {name: request[name] for name in NODES if request.get(name) is not None}
    for name, node in nodes.items():
        if "_target_" not in node:
            raise UserError(f"has settings and is no option: choose one ({name}=...)", name)
    found = {name: request[name] for name in CALL if name in request}
    found |= {name: reconstruct(node, name) for name, node in nodes.items()}
    size = None if request.get("size") is None else tuple(request["size"])
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise UserError(f"must be WIDTH and HEIGHT in pixels, got {list(size)}", "size")
    for name in FILES:
        if name in request:
            found[name] = load_image(request[name], size, "L" if name == "mask" else "RGB")
    return found


def of_batch(batch: Sequence[Item]) -> dict[str, Any]:
    """Arguments of the call that samples some images together."""
    columns = {name: [item[name] for item in batch] for name in ("prompt", "seed", "number")}
    negatives = [item["negative_prompt"] or "" for item in batch]
    seeds = columns["seed"]
    unconditional = columns["prompt"][0] is None
    return {
        **({"num_images": len(batch)} if unconditional else {"prompt": columns["prompt"]}),
        "negative_prompt": negatives if any(negatives) else None,
        "seed": seeds[0] if len(set(seeds)) == 1 else seeds,
        "numbers": columns["number"],
        "batch_size": len(batch),
    }
