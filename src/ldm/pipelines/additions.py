"""Additions to a model: adapters of its nets, and words with vectors of their own."""

import logging
import os
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from ldm.checkpoints.assemble import COMPONENTS, LoadedModel
from ldm.checkpoints.lora import Paths, as_paths, merge_files, unmerge
from ldm.checkpoints.textual_inversion import read_words, save_words
from ldm.models.learned_words import LearnedWords
from ldm.pipelines.parts import SamplerParts
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

A = TypeVar("A", bound="Additions")


class Additions(SamplerParts):
    """Adapters of a sampler's nets, and learned words of its text encoder.

    Attributes:
        config: of the model.
    """

    config: dict[str, Any]

    def load_lora(self: A, path: Paths, scale: float | Sequence[float] = 1.0) -> A:
        """Merges adapters into the nets; returns the pipeline. Several may be merged at once or in turn.

        Args:
            path: one or several files or folders as diffusers, PEFT, kohya's scripts, LyCORIS or
                `ldm-train adapters=lora` write them (`ldm.checkpoints.lora.merge_lora`).
            scale: of the adapters, one for all or one for each; 1 adds them as they were trained.

        Raises: FileNotFoundError; ValueError if a tensor of a file belongs to no layer, does not fit or is
            not finite, or if a file changes nothing. The nets are as they were then.
        """
        nets = {name: getattr(self, name) for name in COMPONENTS}
        merge_files(LoadedModel(config=self.config, components=nets), path, scale, keep=True)
        return self

    def unload_lora(self: A) -> A:
        """Takes all adapters out of the nets, whose weights are those of before, bit for bit."""
        unmerge(getattr(self, name) for name in COMPONENTS)
        return self

    def load_textual_inversion(self: A, path: Paths, word: str | None = None) -> A:
        """Makes words of textual inversion known to the text encoder; returns the pipeline.

        Prompts may contain them then, once or several times, also with weights. A weaker model of
        autoguidance learns them, too.

        Args:
            path: one or several files of the web UI (`.pt`, `.safetensors`) or of diffusers (`.bin`,
                `.safetensors`), or folders of such. A file of diffusers holds its word; one of the web UI has
                the word of its name, without the suffix, and the one it was trained with.
            word: that prompts contain, for a single file with one word.

        Raises: FileNotFoundError; ValueError if a file is no textual inversion, is for another text encoder
            or has a word that is there already. No word is added then.
        """
        paths = as_paths("embeddings", path)
        if word is not None and len(paths) != 1:
            raise UserError(f"word must be left out for several files, got {word!r} for {len(paths)}")
        read = [(file, read_words(file, word)) for file in paths]
        encoders = [net.text_encoder for net in (self.sampler.own, self.weak) if net is not None]
        learned = [_learned(encoder) for encoder in encoders]
        before = [dict(words.vectors) for words in learned]
        try:
            for (file, found), words in product(read, learned):
                for name, vectors in found.items():
                    words.add(name, vectors, str(file))
        except ValueError:
            for words, vectors_before in zip(learned, before, strict=True):
                words.vectors = vectors_before
            raise
        for file, found in read:
            sizes = ", ".join(f"{name!r} ({len(vectors)} vectors)" for name, vectors in found.items())
            log.info("%s: prompts may contain %s", file, sizes)
        return self

    def unload_textual_inversion(self: A, words: Iterable[str] | None = None) -> A:
        """Forgets words that were loaded, all of them if none are given; returns the pipeline.

        Raises: ValueError for a word that was not loaded.
        """
        _learned(self.text_encoder).remove(words)
        return self

    def save_textual_inversion(
        self, path: str | os.PathLike[str], words: Iterable[str] | None = None
    ) -> None:
        """Writes learned words as a `.safetensors` that diffusers and, with one word, the web UI read.

        Args:
            path: of the file; an existing one is replaced.
            words: to write; None for all.

        Raises: ValueError for a word that is not there, or if there is none.
        """
        known = _learned(self.text_encoder).vectors
        chosen = list(known) if words is None else list(words)
        if missing := [word for word in chosen if word not in known]:
            raise UserError(f"{missing[0]!r} must be one of the learned words {list(known)}")
        save_words(Path(path), {word: known[word] for word in chosen})


def _learned(encoder: Any) -> LearnedWords:
    """The learned words of a text encoder.

    Raises: ValueError if it cannot learn any.
    """
    if "learned_words" not in encoder.supports:
        raise UserError(f"embeddings must be left out for {type(encoder).__name__}, which learns no words")
    learned: LearnedWords = encoder.learned
    return learned
