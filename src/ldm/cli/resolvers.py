"""Functions that configs may use as `${name:...}`; registered before a config is composed."""

import os
from pathlib import Path

from omegaconf import OmegaConf


def register_resolvers() -> None:
    """Registers `${mul:a,b}`, a product, and `${wandb_offline:}`, true without a login to W&B."""
    OmegaConf.register_new_resolver("mul", _product, replace=True)
    OmegaConf.register_new_resolver("wandb_offline", _wandb_offline, replace=True)


def _product(*factors: object) -> object:
    """The product of numbers; otherwise a factor that is none, whose key the checks then name."""
    product: int | float = 1
    for factor in factors:
        if not isinstance(factor, int | float):
            return factor
        product *= factor
    return product


def _wandb_offline() -> bool:
    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"] not in ("online", "disabled")  # the latter is W&B's own business
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return "WANDB_API_KEY" not in os.environ and not (netrc.is_file() and "wandb" in netrc.read_text())
