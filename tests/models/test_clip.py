from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from ldm.models.clip import ClipTextEncoder
from ldm.utils.construct import construct

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CONF = Path(__file__).parents[2] / "conf" / "text_encoder"
CAPTIONS = ["red heart", "", "smiling face with sunglasses on a light blue background", "pizza"]
TINY = {"width": 16, "num_heads": 2, "layers": 3, "quick_gelu": True}


@pytest.fixture
def clip() -> Any:
    """Makes CLIP text encoders with a tiny random tower."""
    torch.manual_seed(0)
    return lambda **options: ClipTextEncoder(**TINY | options)


@pytest.mark.parametrize(
    ("name", "parameters", "width"),
    [("clip", 123_060_480, 768), ("clip_h", 340_387_840, 1024)],
)
def test_configs_have_the_parameters_of_the_text_tower_alone(name: str, parameters: int, width: int):
    """Source: text_encoder/model.safetensors of stable-diffusion-v1-5 and -2-1, without position ids."""
    with torch.device("meta"):
        encoder = construct(OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")), "text_encoder")()
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder.context_dim == width
    assert not encoder.trainable


def test_clip_is_frozen_by_default(clip: Any):
    encoder = clip().train()
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.training
    assert not encoder.encode(CAPTIONS).tokens.requires_grad
    trained = clip(trainable=True).train()
    assert trained.training
    assert trained.encode(CAPTIONS).tokens.requires_grad


def test_clip_looks_backwards_only(clip: Any):
    encoder = clip()
    a, b = encoder.encode(["red heart on a blue background", "red heart on a green background"]).tokens
    assert torch.allclose(a[:5], b[:5], atol=1e-6)
    assert not torch.allclose(a[5], b[5], atol=1e-3)
    assert torch.allclose(encoder.encode(["", "red"]).tokens[1], encoder.encode(["red"]).tokens[0], atol=1e-5)


def test_clip_stores_weights_only(clip: Any):
    assert {name.split(".")[1] for name in clip().state_dict()} == {
        "token_embedding",
        "positional_embedding",
        "transformer",
        "ln_final",
    }
    assert not list(clip().buffers())


def test_clip_skip_leaves_out_the_last_layers_and_keeps_the_norm(clip: Any):
    encoder, short = clip(), clip(layers=2)
    short.load_state_dict({key: encoder.state_dict()[key] for key in short.state_dict()})
    assert torch.equal(encoder.encode(CAPTIONS, clip_skip=1).tokens, short.encode(CAPTIONS).tokens)
    assert not torch.equal(encoder.encode(CAPTIONS).tokens, short.encode(CAPTIONS).tokens)
    with pytest.raises(ValueError, match=r"clip_skip must be in \[0, 2\], got 3"):
        encoder.encode(CAPTIONS, clip_skip=3)


def test_short_captions_are_padded_with_the_token_asked_for(clip: Any):
    assert clip().tokenize(["red"])[0, 3:].unique().tolist() == [49_407]
    assert clip(pad_token=0).tokenize(["red"])[0, 3:].unique().tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 1}, r"max_length must be at least 2, got 1"),
        ({"vocabulary_size": 99}, r"at least 49408, .*, got 99"),
    ],
)
def test_clip_names_arguments_out_of_range(clip: Any, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        clip(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_name": "ViT-Q-99"}, r"'ViT-Q-99'"),
        ({"model_name": "xlm-roberta-base-ViT-B-32"}, r"own text tower"),
        ({"pretrained": "absent"}, r"one of .*'openai'.*got 'absent'"),
        ({"quick_gelu": False}, r"quick_gelu must be True for .*'openai' of ViT-L-14, got False"),
    ],
)
def test_clip_names_unknown_models_and_weights(clip: Any, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        clip(**{"model_name": "ViT-L-14", "pretrained": "openai"} | options)


def test_clip_without_a_network_is_one_clear_error(clip: Any, monkeypatch: pytest.MonkeyPatch):
    open_clip = pytest.importorskip("open_clip")

    def offline(*_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(FileNotFoundError, match=r"'openai' of ViT-L-14 .*\(ConnectionError\)"):
        clip(model_name="ViT-L-14", pretrained="openai")


def test_clip_reads_a_file_of_weights(clip: Any, tmp_path: Path):
    source = clip(layers=4)
    state = {f"text.{k}": v for k, v in source.tower.state_dict().items()}
    torch.save(state | {"visual.proj": torch.zeros(2)}, tmp_path / "clip.pt")
    torch.manual_seed(1)
    path = str(tmp_path / "clip.pt")
    loaded = clip(model_name="ViT-L-14", pretrained=path)  # 3 of the 4 layers
    assert torch.equal(loaded.encode(CAPTIONS).tokens, source.encode(CAPTIONS, clip_skip=1).tokens)
    torch.save({"visual.proj": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"does not fit this text tower: .* got nothing"):
        clip(model_name="ViT-L-14", pretrained=str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match=r"positional_embedding must be \(20, 16\), got \(77, 16\)"):
        clip(model_name="ViT-L-14", pretrained=path, max_length=20)


@pytest.mark.parametrize("width", [1, 40, 63, 65])
def test_the_mlp_has_the_width_that_is_asked_for(clip: Any, width: int):
    encoder = clip(mlp_width=width)
    assert encoder.tower.transformer.resblocks[0].mlp.c_fc.weight.shape == (width, 16)
    assert clip().tower.transformer.resblocks[0].mlp.c_fc.weight.shape == (64, 16)


def test_added_tokens_have_rows_of_their_own(clip: Any):
    encoder = clip(vocabulary_size=49_410, added_tokens={"<toy>": 49_408, "<toy>_1": 49_409})
    assert encoder.tokenize(["a <toy>"])[0, :5].tolist() == [49_406, 320, 49_408, 49_409, 49_407]
    for number in (49_407, 49_410):
        with pytest.raises(ValueError, match="added_tokens must have rows in"):
            clip(vocabulary_size=49_410, added_tokens={"<toy>": number})
