"""Our CLIP text encoder computes what transformers' CLIPTextModel computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.models.clip import ClipTextEncoder
from ldm.models.tokenizer import CLIP_VOCABULARY

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
transformers = pytest.importorskip("transformers")

TINY = {"context_length": 77, "vocab_size": CLIP_VOCABULARY, "width": 16, "heads": 2, "layers": 3}


def state_of(theirs: nn.Module) -> dict[str, Tensor]:
    """The reference's parameters under open_clip's names."""
    state, out = {k.removeprefix("text_model."): v for k, v in theirs.state_dict().items()}, {}
    out["token_embedding.weight"] = state["embeddings.token_embedding.weight"]
    out["positional_embedding"] = state["embeddings.position_embedding.weight"]
    for name in ("weight", "bias"):
        out[f"ln_final.{name}"] = state[f"final_layer_norm.{name}"]
        for i in range(TINY["layers"]):
            layer, block = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
            qkv = [state[f"{layer}self_attn.{part}_proj.{name}"] for part in "qkv"]
            out[f"{block}attn.in_proj_{name}"] = torch.cat(qkv)
            out[f"{block}attn.out_proj.{name}"] = state[f"{layer}self_attn.out_proj.{name}"]
            for ours, reference in (
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                out[f"{block}{ours}.{name}"] = state[f"{layer}{reference}.{name}"]
    return out


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_tokens_equal_transformers(
    quick_gelu: bool,
    layer: str,
    randomise: Callable[..., nn.Module],
    relative_error: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last hidden states, and the penultimate ones after the final layer norm as SD 2.x uses them."""
    monkeypatch.setattr(text_encoder, "_clip_config", lambda *_: (TINY, quick_gelu))
    ours = ClipTextEncoder("tiny", layer=layer)
    theirs = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=CLIP_VOCABULARY,
            hidden_size=16,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=77,
            hidden_act="quick_gelu" if quick_gelu else "gelu",
        )
    )
    state = state_of(randomise(theirs, 0))
    ours.tower.load_state_dict({key: state[key] for key in ours.tower.state_dict()})
    captions = ["a photo of a cat wearing a hat", "", "red heart"]
    with torch.no_grad():
        out = theirs(ours.tokenize(captions), output_hidden_states=True)
        norm = getattr(theirs, "text_model", theirs).final_layer_norm
        expected = out.last_hidden_state if layer == "last" else norm(out.hidden_states[-2])
        assert relative_error(ours.encode(captions).tokens, expected) <= 1e-5
