"""Names of diffusers that a pipeline does not have, each with one line on what to use."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ldm.generation.settings import Settings

log = logging.getLogger(__name__)

HARMLESS = {
    "safety_checker": (None,),
    "feature_extractor": (None,),
    "image_encoder": (None,),
    "requires_safety_checker": (True, False, None),
    "use_safetensors": (True, False, None),
    "low_cpu_mem_usage": (True, False, None),
    "local_files_only": (False, None),
    "device_map": (None,),
    "revision": (None, "main"),
    "use_auth_token": (None, False),
    "token": (None, False),
}
"""Arguments of `from_pretrained` -> values with which they change nothing here."""

LOADING = {
    "device_map": "device=",
    "scheduler": "pipeline.scheduler = NAME after loading, or scheduler= in the call",
    "unet": "a checkpoint with that net",
    "revision": "the folder that huggingface_hub.snapshot_download(ID, revision=...) gives",
    "token": "the environment variable HF_TOKEN",
    "use_auth_token": "the environment variable HF_TOKEN",
    "cache_dir": "the environment variable HF_HOME",
    "local_files_only": "the environment variable HF_HUB_OFFLINE=1",
    "pretrained_model_name_or_path": "path=",
    "custom_pipeline": "a Python file of your own in modules=",
}
"""Arguments of `from_pretrained` that diffusers has -> what to use here."""

PARTS = {
    "unet": "backbone",
    "vae": "autoencoder",
    "transformer": "backbone",
    "tokenizer": "text_encoder",
    "feature_extractor": None,
    "image_encoder": None,
    "safety_checker": None,
}
"""Parts of diffusers' pipelines -> ours."""

NEEDLESS = (
    "enable_attention_slicing",
    "disable_attention_slicing",
    "enable_xformers_memory_efficient_attention",
    "disable_xformers_memory_efficient_attention",
)
"""Methods of diffusers' pipelines that change nothing here: attention is computed in blocks always."""

METHODS = {
    "enable_freeu": "there is no such rule",
    "load_lora_weights": "use load_lora with a path and a scale",
    "unload_lora_weights": "use unload_lora",
    "fuse_lora": "load_lora merges adapters into the weights",
    "unfuse_lora": "use unload_lora",
    "set_adapters": "use unload_lora, then load_lora with paths and scales",
    "load_ip_adapter": "image prompts are not supported",
    "encode_prompt": "use text_encoder.encode with a list of prompts",
    "vae_scale_factor": "it is called autoencoder.downscale",
    "cuda": "use to with device='cuda'",
    "cpu": "use to with device='cpu'",
    "half": "use to with dtype='fp16'",
    "float": "use to with dtype='fp32'",
    "set_progress_bar_config": "use progress=False or True in the call",
}
"""Methods of diffusers' pipelines -> what to do here."""


DEFAULTS = ("scheduler", "timesteps", "guidance", "thresholding", "num_inference_steps", "guidance_scale")
IN_CALLS = {field.name for field in fields(Settings)} - {*DEFAULTS}
"""Arguments of calls that are no settings of a pipeline."""


def check_path(name: str, value: Any) -> None:
    """Raises TypeError unless an argument is a path or hub id, or None.

    Args:
        name: of the argument.
        value: that was given.
    """
    if value is None or (isinstance(value, str | os.PathLike) and os.fspath(value)):
        return
    found = repr(value) if isinstance(value, str) else type(value).__name__
    raise TypeError(f"{name} must be a file, folder or hub id, got {found}")


def check_loading(others: Mapping[str, Any], paths: Mapping[str, Any] | None = None) -> None:
    """Checks the arguments of `from_pretrained`.

    Args:
        others: those that are not ours.
        paths: those that are paths or hub ids, by name.

    Raises: TypeError for other arguments that would have an effect, and for what is no path.
    """
    for name, value in (paths or {}).items():
        check_path(name, value)
    for name, value in others.items():
        if name in HARMLESS and any(value is fine or value == fine for fine in HARMLESS[name]):
            continue
        advice = LOADING.get(name)
        raise TypeError(
            f"{name} is no argument of from_pretrained"
            + (
                f": use {advice}"
                if advice
                else f" or must be one of {HARMLESS[name]}"
                if name in HARMLESS
                else ""
            )
        )


def refuse_attribute(name: str, value: Any) -> None:
    """Raises AttributeError where a part of diffusers, or an argument of calls, is set that nothing reads."""
    if name in IN_CALLS:
        raise AttributeError(f"{name} cannot be set, it would have no effect: give {name}= in the call")
    if name not in PARTS or (PARTS[name] is None and value is None):
        return
    ours = PARTS[name]
    use = f"make a pipeline with that {ours}: type(pipeline)(**(pipeline.components | {{{ours!r}: net}}))"
    raise AttributeError(f"{name} cannot be set: {use if ours else 'pipelines of ldm have none'}")


def needless(*_: Any, **__: Any) -> None:
    """Does nothing, for one of `NEEDLESS`, and logs it."""
    log.info("attention is computed in blocks always: there is nothing to do")


def missing_attribute(owner: type, name: str) -> Callable[..., None]:
    """The function for an attribute that a pipeline does not have and does not need.

    Raises: AttributeError for all others, naming what to use.
    """
    if name in NEEDLESS:
        return needless
    line = f"{owner.__name__!r} object has no attribute {name!r}"
    if PARTS.get(name):
        line += f": it is called {PARTS[name]!r}"
    elif name in METHODS:
        line += f": {METHODS[name]}"
    raise AttributeError(line)
