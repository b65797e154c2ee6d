"""Files and folders of an autoencoder alone, such as the fine-tuned VAEs of Stable Diffusion."""

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldm.checkpoints import diffusers_config as words
from ldm.checkpoints.assemble import Source
from ldm.checkpoints.diffusers_folder import component_kind, weights_of
from ldm.checkpoints.keymaps import DIFFUSERS
from ldm.checkpoints.names import theirs, unused, vae_attention_name
from ldm.checkpoints.tensors import TensorFiles, read_json
from ldm.checkpoints.vae_shapes import SCALING_FACTOR, Spelling, autoencoder_of, spelling_of
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

CONFIG = "config.json"
CLASS = "AutoencoderKL"
INSIDE = re.compile(r"(?:.*\.)?((?:encoder|decoder|quant_conv|post_quant_conv)\..+)")
SCALES: Mapping[str, Any] = {"scaling_factor": SCALING_FACTOR, "shift_factor": 0.0}
OWN_PREFIXES = ("first_stage_model.", "autoencoder.")  # of an autoencoder in a file with other nets


def is_autoencoder_folder(path: Path) -> bool:
    """True for the folder of an autoencoder of diffusers, which has a config of its own."""
    return (path / CONFIG).is_file() and component_kind(path) == CLASS


def bare(name: str) -> str | None:
    """The name of an autoencoder's tensor without what stands in front of it; None for one of no layer."""
    match = INSIDE.fullmatch(name)
    return match[1] if match and not unused(name) else None


def spelling_in(names: Iterable[str]) -> Spelling | None:
    """The spelling of the names of a file of an autoencoder alone; None for other files."""
    inside = [bare(name) for name in names]
    return spelling_of(name for name in inside if name is not None)


def autoencoder_source(path: Path, files: TensorFiles, spelling: Spelling) -> Source:
    """Config, files and names of an autoencoder alone.

    Args:
        path: of the file; the config of diffusers beside it is read if there is one.
        files: it, opened.
        spelling: of its names.

    Raises: ValueError for an autoencoder of another family.
    """
    files.rename(bare)
    files.rename(lambda name: vae_attention_name(name, spelling.column))
    config = path.parent / CONFIG
    if config.is_file() and component_kind(path.parent) == CLASS:
        node = words.autoencoder_node(read_json(config))
    else:
        try:
            found = autoencoder_of(files.shapes, spelling)
        except KeyError as error:
            raise UserError(f"{error.args[0]} is missing, which shows the architecture") from error
        node = {key: value for key, value in found.items() if key not in SCALES}  # the file records none

    def names(component: str, node: dict[str, Any], keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
        return theirs(component, node, keys, spelling.column)

    return Source(path=path, config={"autoencoder": node}, files={"autoencoder": files}, names=names)


def autoencoder_folder_source(path: Path, stack: ExitStack, variant: str | None) -> Source:
    """Config, files and names of the folder of an autoencoder of diffusers.

    Raises: FileNotFoundError; ValueError for options that our nets do not have.
    """
    files = stack.enter_context(TensorFiles(weights_of(path, "autoencoder", variant)))
    spelling = spelling_in(files.shapes)
    if spelling is None or spelling.column != DIFFUSERS:
        raise UserError(f"{path} holds no tensors of an {CLASS}")
    return autoencoder_source(path / CONFIG, files, spelling)


def replacement(source: Source, own: Mapping[str, Any] | None) -> Source:
    """The autoencoder of a source alone, to stand in the place of another.

    Args:
        source: of a whole model or an autoencoder.
        own: config of the autoencoder that is replaced; None if there is none. Its scale of the latents holds
            where the source records none.

    Raises: ValueError if there is none, or its latents are of other channels or another size.
    """
    if "autoencoder" not in source.files:
        raise UserError(f"{source.path} has no autoencoder")
    node = source.config["autoencoder"]
    if own is not None:
        _check_latents(source.path, own, node)
    scales = {key: own[key] for key in SCALES if own is not None and key in own}
    if len(source.files) > 1:
        without_others(source.files["autoencoder"], keep=True)
    return replace(
        source,
        config={"autoencoder": {**SCALES, **scales, **node}},
        files={"autoencoder": source.files["autoencoder"]},
        base=None,
        updates={},
    )


def _check_latents(path: Path, own: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises ValueError unless two autoencoders make latents of the same shape."""
    for name, of in (
        ("latent_channels", lambda node: node.get("latent_channels")),
        ("the number of levels", lambda node: len(node.get("channels", ()))),
    ):
        if of(own) != of(other):
            raise UserError(
                f"{path} is not for the latents of this model: {name} must be {of(own)}, got {of(other)}"
            )
    scale, given = own.get("scaling_factor"), other.get("scaling_factor")
    if given is not None and given != scale:
        log.warning("%s scales its latents by %s, the autoencoder it replaces by %s", path, given, scale)


def without_others(files: TensorFiles, keep: bool) -> None:
    """Leaves the autoencoder's tensors only, or all others, in files that hold those of several nets."""
    if any(name.startswith(OWN_PREFIXES) for name in files.shapes):
        files.rename(lambda name: name if name.startswith(OWN_PREFIXES) == keep else None)


def without_autoencoder(source: Source) -> tuple[Source, dict[str, Any] | None]:
    """A source without its autoencoder, and the config of that; None if it has none."""
    config, files = dict(source.config), dict(source.files)
    own, tensors = config.pop("autoencoder", None), files.pop("autoencoder", None)
    if tensors is not None and any(tensors is other for other in files.values()):
        without_others(tensors, keep=False)
    return replace(source, config=config, files=files), own


def spelling_of_file(path: Path, stack: ExitStack) -> tuple[TensorFiles, Spelling] | None:
    """A file opened, with the spelling of the autoencoder in it, if it is no file of ours; else None."""
    files = stack.enter_context(TensorFiles([path]))
    if files.metadata.get("format", "").startswith("ldm"):
        return None
    without_others(files, keep=True)
    spelling = spelling_in(files.shapes)
    return None if spelling is None else (files, spelling)
