"""Text encoders: captions -> Conditioning (tokens, pooled)."""

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ldm.diffusion.conditioning import Conditioning
from ldm.models.attention import TransformerBlock

CLIP_VOCABULARY = 49_408
CLIP_LAYERS = ("last", "penultimate")


@lru_cache(maxsize=1)
def clip_tokenizer() -> Any:
    """CLIP's byte-pair tokenizer as shipped by open_clip (Radford et al. 2021); needs no download.

    Only the file `open_clip/tokenizer.py` is run, not the package's `__init__`: that one imports timm,
    torchvision and transformers (7 s), of which the tokenizer needs nothing.

    Raises: ImportError if open_clip is not installed.
    """
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ImportError("open_clip is needed to read captions: pip install open_clip_torch")
    file = Path(package.submodule_search_locations[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("ldm_open_clip_tokenizer", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


@lru_cache(maxsize=65_536)
def _tokenize(caption: str, length: int) -> Tensor:
    return clip_tokenizer()([caption], context_length=length)[0]


class TextEncoder(nn.Module):
    """Interface of all text encoders. The empty caption "" is the unconditional one.

    Attributes:
        context_dim: channels of the tokens, None when there are none.
        pooled_dim: channels of the pooled vector, None when there is none.
        trainable: whether the encoder is trained jointly with the backbone.
    """

    context_dim: int | None = None
    pooled_dim: int | None = None
    trainable: bool = False

    def encode(self, captions: list[str]) -> Conditioning:
        """Conditioning of b captions: tokens (b, l, context_dim) and pooled (b, pooled_dim)."""
        raise TypeError(f"{type(self).__name__} does not define encode")

    def learn_vocabulary(self, captions: Callable[[], list[str]]) -> None:
        """Takes note of the words of the training captions, if the encoder keeps a vocabulary."""

    def unknown_words(self, captions: list[str]) -> list[str]:
        """The words (or parts of words) of the captions that say nothing to the encoder."""
        return []


class NullTextEncoder(TextEncoder):
    """No condition: an unconditional model."""

    def encode(self, captions: list[str]) -> Conditioning:
        """Returns an empty Conditioning."""
        return Conditioning()


class ClassEncoder(TextEncoder):
    """One learned vector per known caption, added to the time embedding; any other caption is "no class".

    Args:
        captions: the known captions, for instance "a photo of a cat".
        width: channels of the pooled vector.
    """

    trainable = True

    def __init__(self, captions: list[str], width: int) -> None:
        super().__init__()
        self.index = {caption: i + 1 for i, caption in enumerate(captions)}
        self.pooled_dim = width
        self.embedding = nn.Embedding(len(captions) + 1, width)

    def encode(self, captions: list[str]) -> Conditioning:
        """Returns the pooled class vectors, (b, width)."""
        index = torch.tensor([self.index.get(c, 0) for c in captions], device=self.embedding.weight.device)
        return Conditioning(pooled=self.embedding(index))


class TinyTextEncoder(TextEncoder):
    """Small bidirectional transformer over CLIP's tokens, trained jointly with the backbone.

    Args:
        width: channels of tokens and pooled vector.
        layers: transformer layers.
        num_heads: attention heads.
        max_length: tokens per caption, start and end included; longer captions are cut.
        token_dim: width of the token table, projected to `width`.
        vocabulary_size: rows of the token table, for the tokens of training captions (`learn_vocabulary`);
            others say nothing. None has a row for each of CLIP's 49,408 tokens.
    """

    trainable = True
    vocabulary: Tensor

    def __init__(
        self,
        width: int,
        layers: int,
        num_heads: int,
        max_length: int = 77,
        token_dim: int = 32,
        vocabulary_size: int | None = None,
    ) -> None:
        super().__init__()
        self.context_dim = self.pooled_dim = width
        self.max_length, self.vocabulary_size = max_length, vocabulary_size
        self.token = nn.Embedding(vocabulary_size or CLIP_VOCABULARY, token_dim)
        if vocabulary_size is not None:
            # sorted ids; places that are left over hold an id that no token has
            self.register_buffer("vocabulary", torch.full((vocabulary_size,), CLIP_VOCABULARY))
        self.project = nn.Linear(token_dim, width)
        self.position = nn.Parameter(nn.init.normal_(torch.empty(max_length, width), std=0.02))
        self.layers = nn.ModuleList(
            TransformerBlock(width, num_heads, context_dim=None) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def learn_vocabulary(self, captions: Callable[[], list[str]]) -> None:
        """Gives each token of the captions a row of the table.

        Raises: ValueError if there are more tokens than rows.
        """
        if self.vocabulary_size is None:
            return
        found = torch.cat([_tokenize(caption, self.max_length) for caption in {*captions(), ""}]).unique()
        if len(found) > self.vocabulary_size:
            raise ValueError(
                f"vocabulary_size must be at least {len(found)} for the tokens of these captions, got "
                f"{self.vocabulary_size}; null has room for all (text_encoder.vocabulary_size)"
            )
        self.vocabulary.fill_(CLIP_VOCABULARY)
        self.vocabulary[: len(found)] = found

    def unknown_words(self, captions: list[str]) -> list[str]:
        """The tokens of the captions that are not in the vocabulary, each once."""
        if self.vocabulary_size is None:
            return []
        ids = self.tokenize(captions)
        missing = ids[~torch.isin(ids, self.vocabulary)].unique().tolist()
        return [clip_tokenizer().decode([token]).strip() for token in missing]

    def tokenize(self, captions: list[str]) -> Int[Tensor, "b l"]:
        """CLIP's token ids of the captions, start and end marked, padded with 0."""
        ids = torch.stack([_tokenize(c, self.max_length) for c in captions])
        return ids.to(self.token.weight.device)

    def embed(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l e"]:
        """Rows of the token table; zeros for a token that is not in the vocabulary."""
        if self.vocabulary_size is None:
            return self.token(ids)
        row = torch.searchsorted(self.vocabulary, ids).clamp(max=self.vocabulary_size - 1)
        known = (self.vocabulary[row] == ids)[:, :, None]
        return self.token(row) * known

    def encode(self, captions: list[str]) -> Conditioning:
        """Returns all tokens and, as pooled vector, their mean over the caption without padding."""
        ids = self.tokenize(captions)
        h = self.project(self.embed(ids)) + self.position
        for layer in self.layers:
            h = layer(h)
        h = self.norm(h)
        mask = (ids != 0).to(h.dtype)[:, :, None]
        return Conditioning(tokens=h, pooled=(h * mask).sum(1) / mask.sum(1))


class ClipTextEncoder(TextEncoder):
    """The text tower of a CLIP model (Radford et al. 2021) through open_clip, as Stable Diffusion uses it.

    Tokens are the hidden states after the final layer norm; there is no pooled vector. Of the CLIP model only
    what these need is kept: neither the vision tower nor the projection.

    Args:
        model_name: open_clip's name, for instance "ViT-L-14" (SD 1.x) or "ViT-H-14" (SD 2.x).
        pretrained: open_clip's tag of the weights ("openai", ...), a file, or None for random weights. On the
            meta device nothing is fetched: the weights come from a checkpoint then.
        layer: whose hidden states, the "last" (SD 1.x) or the "penultimate" one (SD 2.x).
        max_length: tokens per caption, start and end included; longer captions are cut.
        trainable: whether the tower is trained with the backbone.

    Raises: ValueError for an unknown model, tag or layer; FileNotFoundError when the weights cannot be had.
    """

    def __init__(
        self,
        model_name: str = "ViT-L-14",
        pretrained: str | None = None,
        layer: str = "last",
        max_length: int = 77,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        if layer not in CLIP_LAYERS:
            raise ValueError(f"layer must be one of {CLIP_LAYERS}, got {layer!r} (text_encoder.layer)")
        config, quick_gelu = _clip_config(model_name, pretrained)
        length = config.get("context_length", 77)
        if not 2 <= max_length <= length:
            raise ValueError(
                f"max_length must be in [2, {length}], got {max_length} (text_encoder.max_length)"
            )
        self.tower = _clip_tower(config, quick_gelu, skipped=CLIP_LAYERS.index(layer))
        self.context_dim, self.max_length, self.trainable = config["width"], max_length, trainable
        if pretrained is not None and not self.tower.positional_embedding.is_meta:
            _load_clip(self.tower, model_name, pretrained)
        self.requires_grad_(trainable)
        self.train(trainable)

    def train(self, mode: bool = True) -> "ClipTextEncoder":
        """Switches the training mode; a frozen tower stays in evaluation mode."""
        return super().train(mode and self.trainable)

    def tokenize(self, captions: list[str]) -> Int[Tensor, "b l"]:
        """Token ids of the captions, start and end marked, padded with 0."""
        ids = torch.stack([_tokenize(c, self.max_length) for c in captions])
        return ids.to(self.tower.positional_embedding.device)

    def encode(self, captions: list[str]) -> Conditioning:
        """Returns the hidden states of all tokens, (b, max_length, context_dim)."""
        ids, tower = self.tokenize(captions), self.tower
        n = ids.shape[1]
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            h = tower.token_embedding(ids) + tower.positional_embedding[:n]
            causal = torch.full((n, n), float("-inf"), dtype=h.dtype, device=h.device).triu(1)
            for block in tower.transformer.resblocks:
                h = block(h, attn_mask=causal)
            return Conditioning(tokens=tower.ln_final(h))


def _clip_config(model_name: str, pretrained: str | None) -> tuple[dict[str, Any], bool]:
    """The text tower's config and whether its activation is the sigmoid approximation of GELU."""
    import open_clip

    model = open_clip.get_model_config(model_name) if model_name in open_clip.list_models() else None
    if model is None or "hf_model_name" in model["text_cfg"]:
        raise ValueError(
            f"model_name must be an open_clip model with its own text tower, such as 'ViT-L-14' or "
            f"'ViT-H-14', got {model_name!r} (text_encoder.model_name)"
        )
    quick_gelu = bool(model.get("quick_gelu", False))
    if pretrained is not None and not Path(pretrained).is_file():
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        if not open_clip.is_pretrained_cfg(model_name, pretrained):
            raise ValueError(
                f"pretrained must be one of {tags} or a file, got {pretrained!r} (text_encoder.pretrained)"
            )
        quick_gelu |= bool(open_clip.get_pretrained_cfg(model_name, pretrained).get("quick_gelu", False))
    return model["text_cfg"], quick_gelu


def _clip_tower(config: dict[str, Any], quick_gelu: bool, skipped: int) -> Any:
    """open_clip's text transformer without its last `skipped` layers, its projection and its buffers."""
    from open_clip.transformer import QuickGELU, TextTransformer

    tower = TextTransformer(
        context_length=config.get("context_length", 77),
        vocab_size=config.get("vocab_size", CLIP_VOCABULARY),
        width=config["width"],
        heads=config["heads"],
        layers=config["layers"] - skipped,
        output_dim=None,
        act_layer=QuickGELU if quick_gelu else nn.GELU,
    )
    tower.attn_mask = None  # computed from the captions' length instead
    return tower


def _load_clip(tower: nn.Module, model_name: str, pretrained: str) -> None:
    """Fills the tower with open_clip's weights, from a file or by download."""
    import open_clip
    from open_clip.factory import load_state_dict

    try:
        path = pretrained
        if not Path(pretrained).is_file():
            path = open_clip.download_pretrained(open_clip.get_pretrained_cfg(model_name, pretrained))
        state = load_state_dict(path)
    except Exception as error:  # whatever the hub's client raises without a network
        raise FileNotFoundError(
            f"the weights {pretrained!r} of {model_name} cannot be had ({type(error).__name__}): run once "
            f"with a network, give their file, or null for random weights (text_encoder.pretrained)"
        ) from error
    state = {key.removeprefix("text."): value for key, value in state.items()}
    if missing := sorted(set(tower.state_dict()) - set(state)):
        raise ValueError(
            f"{pretrained!r} is no text tower of {model_name}: no {missing[:3]} (text_encoder.pretrained)"
        )
    tower.load_state_dict({key: state[key].float() for key in tower.state_dict()})
