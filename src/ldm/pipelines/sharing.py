"""Nets that several pipelines use, their files and their description."""

import os
from pathlib import Path
from typing import Any, TypeVar

from ldm.checkpoints.assemble import COMPONENTS, LoadedModel
from ldm.checkpoints.converter import check_target, write_checkpoint
from ldm.pipelines.options import KINDS
from ldm.pipelines.placement import Placed
from ldm.utils.device import dtype_name
from ldm.utils.errors import UserError
from ldm.utils.options import node_of

S = TypeVar("S", bound="Shared")

FORMATS = {".safetensors": "ldm", ".ckpt": "original", "": "diffusers"}
"""Suffix of a path -> format that `save` writes."""


class Shared(Placed):
    """Nets that several pipelines use, and that are written to files.

    Attributes:
        config: of the model as it was loaded, plain types only.
    """

    config: dict[str, Any]

    @property
    def components(self) -> dict[str, Any]:
        """The arguments of a pipeline with the same nets: `InpaintPipeline(**pipeline.components)`."""
        return {name: getattr(self, name) for name in COMPONENTS} | {"config": self.current_config()}

    @classmethod
    def from_pipe(cls: type[S], pipeline: "Shared") -> S:
        """A pipeline with the nets and settings of another one; no weights are copied.

        Args:
            pipeline: of any kind. Moving, casting or adapting the nets of one changes both.

        Raises: TypeError for anything else.
        """
        if not isinstance(pipeline, Shared):
            raise TypeError(f"pipeline must be one of ldm, got {type(pipeline).__name__}")
        made = cls.__new__(cls)
        vars(made).update(vars(pipeline))
        return made

    def current_config(self) -> dict[str, Any]:
        """The config of the model with the settings that have been changed since.

        Raises: ValueError for an object that no config describes.
        """
        stored, now = dict(self.config["sampling"]), self.defaults
        for name in (*KINDS, "num_inference_steps", "guidance_scale"):
            if now.get(name) is not self.loaded_defaults.get(name):
                stored[name] = node_of(now[name])
        return {**self.config, "sampling": stored}

    @property
    def loaded_defaults(self) -> dict[str, Any]:
        """The settings as they were loaded."""
        found: dict[str, Any] = vars(self)["_loaded_defaults"]
        return found

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the model, adapters merged and settings included; folders are made.

        Args:
            path: a `.safetensors` of ldm, a `.ckpt` as the original code has it, or, without a suffix, a
                folder of diffusers.
            overwrite: replace an existing file.

        Raises: FileExistsError; ValueError if the model has no place in the format.
        """
        target = Path(path)
        if (format := FORMATS.get(target.suffix)) is None:
            raise UserError(f"path must end in .safetensors or .ckpt, or be a folder, got {target}")
        self._write(target, format, overwrite)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes the model as a folder of diffusers, which must be new or empty.

        Raises: FileExistsError; ValueError if the model has no place in the format: `save` has one for all.
        """
        self._write(Path(save_directory), "diffusers", overwrite=False)

    def _write(self, path: Path, format: str, overwrite: bool) -> None:
        check_target(path, format, overwrite)
        nets = {name: getattr(self, name) for name in COMPONENTS}
        model = LoadedModel(config=self.current_config(), components=nets)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(model, path, format)

    def __repr__(self) -> str:
        """The nets with their sizes, and the settings of calls that give no others."""
        lines = [f"{type(self).__name__}("]
        for name in COMPONENTS:
            net = getattr(self, name)
            count = sum(p.numel() for p in net.parameters())
            lines.append(f"  {name}: {type(net).__name__}, {count:,} parameters")
        lines.append(f"  prediction: {self.diffusion.prediction!r}")
        lines += [f"  {name}: {_shown(value)}" for name, value in self.defaults.items() if value is not None]
        lines.append(f"  image_size: {self.sampler.image_size}")
        lines.append(f"  device: {self.device}, dtype: {dtype_name(self.dtype)}")
        return "\n".join([*lines, ")"])


def _shown(value: Any) -> str:
    """A setting as one line; a function with its arguments."""
    function = getattr(value, "func", None)
    if function is None:
        return repr(value)
    arguments = ", ".join(f"{name}={argument!r}" for name, argument in value.keywords.items())
    return f"{function.__name__}({arguments})"
