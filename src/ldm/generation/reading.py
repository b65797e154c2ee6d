"""Rules for reading prompts: with or without weights, cut or in chunks."""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ldm.generation.settings import Settings
from ldm.models.prompt_weights import has_weights, plain

log = logging.getLogger(__name__)

# Other rules of the web UI, which are not followed.
NETWORK = re.compile(r"<(lora|lyco|hypernet):[^<>]*>")
EDITING = re.compile(r"\[[^\[\]]*(:\s*[.\d]+\s*|\|[^\[\]]*)\]|\bAND\b")


class Reading(NamedTuple):
    """Rules by which prompts are read.

    Attributes:
        prompt_weights: brackets are weights (`ldm.models.prompt_weights`).
        long_prompts: "cut" or "chunks" (`ldm.models.prompt_chunks`).
    """

    prompt_weights: bool = False
    long_prompts: str = "cut"


PLAIN = Reading()


def reading_of(given: Settings, defaults: Mapping[str, Any], supported: Collection[str]) -> Reading:
    """The reading that a call asks for, or else the model's own; plain where there is none.

    Args:
        given: settings of the call.
        defaults: settings of the model.
        supported: capabilities of the text encoder; what it lacks is plain unless the call asks for it.
    """
    own = {name: defaults.get(name) for name in Reading._fields if name in supported}
    found = {name: getattr(given, name) for name in Reading._fields}
    chosen = {name: own.get(name) if value is None else value for name, value in found.items()}
    return Reading(**{name: value for name, value in chosen.items() if value is not None})


def warn_of_words(text_encoder: Any, prompts: Sequence[str], reading: Reading, told: bool) -> None:
    """Logs what a text encoder leaves out of prompts, and marks in them that are not read as text.

    Args:
        text_encoder: the text encoder.
        prompts: the prompts.
        reading: of them.
        told: True if the user chose `prompt_weights`.
    """
    texts = sorted(set(prompts))
    if reading.prompt_weights:
        _warn_of_marks(texts, told)
        texts = sorted({plain(text) for text in texts})
    if unknown := text_encoder.unknown_words(texts):
        log.warning("this model has not seen %s in training and leaves it out", ", ".join(unknown))
    if reading.long_prompts == "chunks":
        return
    for text in texts:
        if lost := text_encoder.cut_off(text):
            limit = text_encoder.max_length
            log.warning("a prompt has more than %d tokens, its end is left out: %s", limit, lost)


def _warn_of_marks(prompts: Sequence[str], told: bool) -> None:
    marked = [prompt for prompt in prompts if has_weights(prompt)]
    if marked and not told:
        log.warning(
            "brackets in a prompt are read as weights, prompt_weights=false reads them as text: %s", marked[0]
        )
    for prompt in prompts:
        if match := NETWORK.search(prompt):
            log.warning("%s is read as text: give the file as lora=, with its lora_scale=", match[0])
        if match := EDITING.search(prompt):
            log.warning("%s: prompt editing and AND of the web UI are not supported", match[0])
