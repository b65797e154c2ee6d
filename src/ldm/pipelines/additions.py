"""What users add to a model: adapters of its nets."""

from collections.abc import Sequence
from typing import Any, TypeVar

from ldm.checkpoints.assemble import COMPONENTS, LoadedModel
from ldm.checkpoints.lora import Paths, merge_files, unmerge
from ldm.pipelines.parts import SamplerParts

A = TypeVar("A", bound="Additions")


class Additions(SamplerParts):
    """Adapters of a sampler's nets.

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
