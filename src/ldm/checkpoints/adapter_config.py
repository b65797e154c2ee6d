"""Settings of PEFT's adapters: what multiplies the factors of each layer."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.checkpoints.tensors import read_json
from ldm.utils.errors import UserError

CONFIG = "adapter_config.json"
PEFT_METADATA = "lora_adapter_metadata"  # where diffusers stores the settings, "unet.r" and so on
KINDS = ("LORA", "LOHA", "LOKR")
# Ways to begin that leave the base's weights as they are; the others store what fits another base.
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
# Settings that change the formula.
UNSUPPORTED = (
    *("use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config"),
    *("velora_config", "monteclora_config", "layer_replication", "trainable_token_indices"),
)


class AdapterConfig:
    """Settings of the adapters of one net; without any, alpha is the rank.

    Args:
        settings: as PEFT writes them.

    Raises: ValueError for a kind of adapter, or a setting, that has no formula here.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        kind = settings.get("peft_type") or "LORA"
        if kind not in KINDS:
            raise UserError(f"peft_type must be one of {', '.join(KINDS)}, got {kind}")
        if (start := settings.get("init_lora_weights")) not in STARTS:
            raise UserError(
                f"init_lora_weights={start!r} changed the weights that the adapters are for: convert them by "
                f"PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)"
            )
        if found := [name for name in UNSUPPORTED if settings.get(name)]:
            raise UserError(f"{', '.join(found)} must be unset, got {settings[found[0]]!r}")
        self.whole = kind in ("LOHA", "LOKR")  # PEFT multiplies whole factors as well

    @property
    def dora(self) -> bool:
        """True if each layer must have a magnitude."""
        return bool(self.settings.get("use_dora"))

    def scale(self, layer: str, rank: int | None) -> float:
        """alpha / rank of a layer; rank-stabilised (Kalajdzievski 2023, arXiv:2312.03732) alpha / sqrt(rank).

        Args:
            layer: its name in the file.
            rank: of its factors; None if they are whole.
        """
        rank = rank or (int(self._of("rank_pattern", layer, self.settings.get("r", 0))) if self.whole else 0)
        if not rank:
            return 1.0
        default = self.settings.get("lora_alpha", self.settings.get("alpha", rank))
        alpha = self._of("alpha_pattern", layer, default)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise UserError(f"alpha must be a number, got {alpha!r}")
        return float(alpha) / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def _of(self, pattern: str, layer: str, default: Any) -> Any:
        """The value of the first key of a pattern that matches the end of a layer's name, as in PEFT."""
        for key, value in (self.settings.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", layer):
                return value
        return default


def configs(path: Path, metadata: Mapping[str, str]) -> dict[str, AdapterConfig]:
    """The settings of the adapters in a file by component: those beside it, or in its metadata.

    Args:
        path: of the file.
        metadata: of the file.

    Raises: ValueError as `AdapterConfig`, or for settings that are no JSON.
    """
    if (file := config_of(path)) is not None:
        own = AdapterConfig(read_json(file))
        return {"backbone": own, "text_encoder": own}
    try:
        said = json.loads(metadata.get(PEFT_METADATA, "{}"))
        names = {"backbone": "unet.", "text_encoder": "text_encoder."}
        plain = {key: value for key, value in said.items() if "." not in key}
        return {
            component: AdapterConfig(
                plain | {k.removeprefix(p): value for k, value in said.items() if k.startswith(p)}
            )
            for component, p in names.items()
        }
    except (ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"its metadata {PEFT_METADATA} is no JSON object") from error


def config_of(path: Path) -> Path | None:
    """The settings that PEFT wrote beside a file."""
    beside = path.with_name(CONFIG)
    return beside if path.stem == "adapter_model" and beside.is_file() else None
