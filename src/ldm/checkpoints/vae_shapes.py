"""Autoencoders of Stable Diffusion by the names and shapes of their tensors."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ldm.checkpoints.keymaps import DIFFUSERS, ORIGINAL
from ldm.utils.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]
NORM_GROUPS = 32
SCALING_FACTOR = 0.18215


@dataclass(frozen=True)
class Spelling:
    """Names of an autoencoder's layers in a format: the column of the tables, blocks and attention."""

    column: int
    block: str
    attention: str


SPELLINGS = (
    Spelling(ORIGINAL, r"encoder\.down\.{i}\.block\.{j}", "encoder.mid.attn_1.q.weight"),
    Spelling(
        DIFFUSERS, r"encoder\.down_blocks\.{i}\.resnets\.{j}", "encoder.mid_block.attentions.0.to_q.weight"
    ),
)


def spelling_of(names: Iterable[str]) -> Spelling | None:
    """The spelling of an autoencoder's names, without a prefix; None if they are not those of one."""
    everything = set(names)
    if not {"encoder.conv_in.weight", "decoder.conv_in.weight"} <= everything:
        return None
    for spelling in SPELLINGS:
        first = spelling.block.format(i=0, j=0).replace("\\", "")
        if f"{first}.conv1.weight" in everything:
            return spelling
    return None


def count(names: Iterable[str], pattern: str) -> int:
    """One more than the largest number that the pattern finds in a name; 0 when it finds none."""
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def autoencoder_of(shapes: Shapes, spelling: Spelling = SPELLINGS[0]) -> dict[str, Any]:
    """Our autoencoder's arguments.

    Args:
        shapes: of its tensors, names without a prefix.
        spelling: of the names.

    Raises: KeyError for a tensor that is missing; ValueError for an autoencoder of another family.
    """
    if len(shapes["encoder.conv_in.weight"]) != 4:
        raise UserError("its autoencoder is one of videos, which ldm does not run")
    if "quant_conv.weight" not in shapes:
        raise UserError(
            "its autoencoder has no quant_conv, as those of SD 3 and Flux, which ldm does not run"
        )
    block = spelling.block
    levels = count(shapes, block.format(i=r"(\d+)", j=r"\d+"))
    widths = [shapes[block.format(i=i, j=0).replace("\\", "") + ".conv2.weight"][0] for i in range(levels)]
    return {
        "_target_": "ldm.models.vae.AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "channels": widths,
        "layers_per_block": count(shapes, block.format(i=0, j=r"(\d+)")),
        "mid_attention": spelling.attention in shapes,
        "norm_groups": NORM_GROUPS,
        "scaling_factor": SCALING_FACTOR,
        "shift_factor": 0.0,
        "patch_shortcut": False,
    }
