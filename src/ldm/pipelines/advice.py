"""Names of diffusers that a pipeline does not have, each with one line on what to use."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

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
    "set_progress_bar_config": "use progress=False or True in the call",
}
"""Methods of diffusers' pipelines -> what to do here."""


def check_loading(others: Mapping[str, Any]) -> None:
    """Raises TypeError for arguments of `from_pretrained` that are not ours and would have an effect."""
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
    """Raises AttributeError where a part of diffusers' pipelines is set that nothing here reads."""
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
