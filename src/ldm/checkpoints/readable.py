"""A model's config is validated before training, so that no run ends in a file that cannot be read."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from ldm.checkpoints.assemble import COMPONENTS, build_empty
from ldm.diffusion.process import Diffusion
from ldm.models.protocols import PROTOCOLS, check_protocol
from ldm.utils.construct import reconstruct
from ldm.utils.errors import UserError

UNIFORM = {"_target_": "ldm.diffusion.weighting.Uniform"}


def diffusion_of(config: Mapping[str, Any]) -> Diffusion:
    """The diffusion of a model that is sampled: its loss weighting is not used and therefore not built.

    Args:
        config: of the model.

    Raises: UserError for a schedule or prediction that cannot be built.
    """
    diffusion: Diffusion = reconstruct({**config["diffusion"], "weighting": UNIFORM}, "diffusion")
    return diffusion


def check_readable(config: Mapping[str, Any]) -> None:
    """Builds all that a model's config describes, on the meta device, as a reader of its file does.

    Args:
        config: of the model, plain types only.

    Raises: UserError naming the key of what a reader could not build, or the member that a net lacks.
    """
    try:
        json.dumps(dict(config), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"the config of a model must hold plain types only: {error}") from error
    diffusion_of(config)
    reconstruct(config["sampling"], "sampling")
    for name in COMPONENTS:
        node = dict(config[name])
        if node.get("pretrained") is not None:
            node["pretrained"] = None  # the weights come from the file, and may be large
        with torch.random.fork_rng(devices=[]):
            net = build_empty(node, name)
        try:
            check_protocol(net, PROTOCOLS[name])
        except UserError as error:
            raise UserError(str(error), name) from error
