"""A composed config as plain dicts and lists, which is what lies below the command line."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.utils.errors import UserError


def plain(node: DictConfig | Mapping[str, Any]) -> Any:
    """A config as plain dicts, lists and values, interpolations resolved.

    Raises: UserError for an interpolation that cannot be resolved, naming its key.
    """
    if not isinstance(node, DictConfig):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        first = (error.msg or str(error)).strip().splitlines()[0]
        raise UserError(first, error.full_key or "config") from error
