"""Names in files of adapters: of layers, and of the tensors that belong to one."""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ldm.checkpoints.keymaps import DIFFUSERS, ORIGINAL
from ldm.checkpoints.names import theirs

# The end of a tensor's name -> its role. PEFT's, kohya's, those of diffusers' scripts, those of LyCORIS.
ROLES = {
    **dict.fromkeys(("lora_A", "lora_A.default", "lora_down", "lora.down", "lora_linear_layer.down"), "down"),
    **dict.fromkeys(("lora_B", "lora_B.default", "lora_up", "lora.up", "lora_linear_layer.up"), "up"),
    "lora_mid": "mid",
}
ROLES = {f"{words}.weight": role for words, role in ROLES.items()}
ROLES |= dict.fromkeys(("lora_B.bias", "lora_B.default.bias", "lora_up.bias"), "up_bias")
ROLES |= {f"lora_embedding_{half}{name}": half for half in "AB" for name in ("", ".default")}
MAGNITUDES = ("", ".weight", ".default", ".default.weight")
ROLES |= {f"lora_magnitude_vector{name}": "magnitude_vector" for name in MAGNITUDES}
ROLES |= {"dora_scale": "magnitude", "alpha": "alpha"}
ROLES |= {"diff": "difference", "diff_b": "bias", "w_norm": "difference", "b_norm": "bias"}
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
ROLES |= {word: word for word in (*LOHA, *LOKR)}
KEY = re.compile(rf"(?P<layer>.+)\.(?P<words>{'|'.join(map(re.escape, sorted(ROLES, key=len)))})")
# Attention processors of diffusers in 2023: HEAD.processor.to_q_lora.down.weight is of the layer HEAD.to_q.
PROCESSOR = re.compile(
    r"(?P<head>.+?)(\.processor)?\.to_(?P<part>q|k|v|out)_lora\.(?P<rest>(up|down)\.weight|alpha)"
)
PEFT = "base_model.model."  # what PEFT puts before the names of a net's own
# The prefixes of the names of layers, with dots and with underscores.
DOTTED = {
    ("backbone", DIFFUSERS): ("unet.", f"unet.{PEFT}", PEFT, ""),
    ("backbone", ORIGINAL): ("diffusion_model.", "model.diffusion_model.", f"{PEFT}diffusion_model."),
    ("text_encoder", DIFFUSERS): tuple(
        before + model
        for before in ("text_encoder.", f"text_encoder.{PEFT}", PEFT, "")
        for model in ("text_model.", "")
    ),
}
FLAT = {
    "backbone": ("lora_unet_", "lycoris_unet_", "lycoris_"),
    "text_encoder": tuple(
        before + model
        for before in ("lora_te_", "lora_te1_", "lycoris_te_", "lycoris_te1_", "lycoris_")
        for model in ("text_model_", "")
    ),
}
# Names of tensors of other things -> what a message calls them.
FOREIGN = {
    r"(lora_te2_|text_encoder_2\.|.*(conditioner|label_emb|add_embedding)[._])": "it is for SDXL",
    r"(.*\.)?(transformer\.|lora_transformer_|.*(double_blocks|single_transformer_blocks|joint_blocks))": (
        "it is for a diffusion transformer (SD 3, Flux)"
    ),
    r".*[._]b?oft_.*": "OFT is not supported",
    r".*(vera_lambda|ia3_l|\.on_input|\.(a1|a2|b1|b2)\.weight|lora_E|vblora|hra_|randlora).*": (
        "its kind of adapter is not supported: LoRA, LoCon, DoRA, LoHa, LoKr and full differences are"
    ),
    r".*custom_diffusion.*": "custom diffusion is not supported",
    r"(image_proj|ip_adapter|.*to_k_ip).*": "it is an IP-Adapter",
    r".*(control_model|controlnet|lllite|zero_conv).*": "it is a ControlNet",
    r".*(motion_modules|temporal_transformer).*": "it is a motion module of AnimateDiff",
    r"(emb_params|clip_[lg]|<.+>)": "it is a textual inversion, not an adapter",
}


class Place(NamedTuple):
    """Where an update belongs: a component, a parameter of it, and which of its equal parts."""

    component: str
    key: str
    part: int = 0
    parts: int = 1


def split(name: str) -> tuple[str, str] | None:
    """Layer and role of a tensor; None if its name is none of an adapter's."""
    if match := PROCESSOR.fullmatch(name):
        text = match["head"].endswith("self_attn")
        ends = {"out": "out_proj" if text else "to_out.0"}
        end = ends.get(match["part"], f"{match['part']}_proj" if text else f"to_{match['part']}")
        return f"{match['head']}.{end}", {"u": "up", "d": "down", "a": "alpha"}[match["rest"][0]]
    if match := KEY.fullmatch(name):
        return match["layer"], ROLES[match["words"]]
    if name.startswith(PEFT) and name.endswith((".weight", ".bias")):
        layer, _, slot = name.rpartition(".")
        return layer.removesuffix(".base_layer"), {"weight": "whole", "bias": "whole_bias"}[slot]
    return None


def places_of(component: str, node: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Place]:
    """All names that a file may give the parameters of a component, LAYER.weight and LAYER.bias.

    Args:
        component: "backbone" or "text_encoder"; other components have no adapters.
        node: config of the component.
        keys: names of its parameters.
    """
    if component not in FLAT:
        return {}
    own = list(keys)
    places = {f"{component}.{key}": Place(component, key) for key in own}
    columns = [column for name, column in DOTTED if name == component]
    for key, column in itertools.product(own, columns):
        try:
            parts = theirs(component, node, [key], column)[key]
        except ValueError:  # not in Stable Diffusion's topology
            continue
        for i, name in enumerate(parts):
            layer, _, slot = name.rpartition(".")
            place = Place(component, key, i, len(parts))
            places |= {prefix + name: place for prefix in DOTTED[component, column]}
            places |= {f"{prefix}{layer.replace('.', '_')}.{slot}": place for prefix in FLAT[component]}
    return places


def foreign(names: Iterable[str]) -> str:
    """A sentence about the kind of file that names come from, "" if they tell nothing."""
    for pattern, told in FOREIGN.items():
        if any(re.fullmatch(f"(?s){pattern}.*", name) for name in names):
            return told
    return ""
