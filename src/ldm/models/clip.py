"""The text tower of CLIP (Radford et al. 2021, arXiv:2103.00020), as Stable Diffusion uses it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ldm.diffusion.conditioning import Conditioning, stacked
from ldm.models.learned_words import LearnedWords
from ldm.models.prompt_reader import PromptReader, Tokens
from ldm.models.prompt_weights import emphasised
from ldm.models.text_encoder import BaseTextEncoder
from ldm.models.tokenizer import CLIP_VOCABULARY, END_OF_TEXT, added_words, special_tokens
from ldm.utils.errors import UserError


class ClipTextEncoder(BaseTextEncoder):
    """The text tower of a CLIP model, made of open_clip's layers.

    Tokens are the hidden states after the final layer norm; there is no pooled vector. Of the CLIP model only
    what these need is kept: neither the vision tower nor the projection. SD 1.x takes all 12 layers of
    ViT-L/14, SD 2.x the first 23 of the 24 of ViT-H/14.

    Args:
        width: channels of the tokens.
        layers: transformer layers.
        num_heads: attention heads.
        quick_gelu: whether the activation is x sigmoid(1.702 x) (OpenAI's weights) rather than GELU.
        pad_token: id that fills up short captions: 49,407 (SD 1.x) or 0 (SD 2.x).
        max_length: tokens per caption, start and end included; longer captions are cut.
        vocabulary_size: rows of the token table; those from 49,408 on belong to no token of CLIP's.
        mlp_width: channels inside the layers' MLPs; None for four times the width.
        added_tokens: tokens besides CLIP's, by name, with their rows in the table (textual inversion).
        model_name: open_clip's name of the model that has the weights `pretrained`.
        pretrained: open_clip's tag of the weights ("openai", ...), a file, or None for random weights. On the
            meta device nothing is fetched: the weights come from a checkpoint then.
        trainable: whether the tower is trained with the backbone.

    Attributes:
        learned: words with vectors of their own, which are no part of the tower's weights.

    Raises: ValueError for an unknown model or tag, or one that does not fit; FileNotFoundError when the
        weights cannot be had.
    """

    supports = frozenset({"clip_skip", "prompt_weights", "long_prompts", "learned_words"})
    max_length: int

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        num_heads: int,
        quick_gelu: bool,
        pad_token: int = END_OF_TEXT,
        max_length: int = 77,
        vocabulary_size: int = CLIP_VOCABULARY,
        mlp_width: int | None = None,
        added_tokens: Mapping[str, int] | None = None,
        model_name: str | None = None,
        pretrained: str | None = None,
        trainable: bool = False,
    ) -> None:
        from open_clip.transformer import QuickGELU, TextTransformer

        super().__init__()
        _check_sizes(max_length, vocabulary_size)
        self.added_tokens = _checked_tokens(added_tokens or {}, vocabulary_size)
        self.tower = TextTransformer(
            context_length=max_length,
            vocab_size=vocabulary_size,
            width=width,
            heads=num_heads,
            layers=layers,
            mlp_ratio=4.0 if mlp_width is None else (mlp_width + 0.5) / width,  # which is rounded down
            output_dim=None,
            act_layer=QuickGELU if quick_gelu else nn.GELU,
        )
        self.tower.attn_mask = None  # made when captions are encoded
        self.context_dim, self.max_length, self.trainable = width, max_length, trainable
        self.layers, self.num_heads, self.pad_token = layers, num_heads, pad_token
        self.learned = LearnedWords(vocabulary_size, width, max_length - 2)
        if pretrained is not None and not self.tower.positional_embedding.is_meta:
            _load_clip(self.tower, model_name, pretrained, quick_gelu)
        self.requires_grad_(trainable)
        self.train(trainable)

    def train(self, mode: bool = True) -> "ClipTextEncoder":
        """Switches the training mode; a frozen tower stays in evaluation mode."""
        return super().train(mode and self.trainable)

    @property
    def reader(self) -> PromptReader:
        """Divides captions into tokens; special tokens and learned words are found in them."""
        added = added_words(self.added_tokens)
        words = {**special_tokens(self.pad_token), **added, **self.learned.ids}
        return PromptReader(words, self.max_length, self.pad_token, within=tuple(added))

    def cut_off(self, caption: str) -> str:
        """End of a caption beyond `max_length` tokens."""
        return self.reader.cut_off(caption)

    def tokenize(self, captions: list[str]) -> Int[Tensor, "b l"]:
        """Token ids of the captions, start and end marked, padded with `pad_token`."""
        reader = self.reader
        return self._tensor([ids for caption in captions for ids in reader.read(caption).ids])

    def _tensor(self, ids: list[list[int]]) -> Int[Tensor, "b l"]:
        """Token ids as one tensor: how many operations it takes does not depend on the batch."""
        return torch.tensor(ids, device="cpu").to(self.tower.positional_embedding.device)

    def encode(
        self,
        captions: list[str],
        clip_skip: int = 0,
        prompt_weights: bool = False,
        long_prompts: str = "cut",
    ) -> Conditioning:
        """Returns the hidden states of all tokens, (b, k max_length, context_dim) with k chunks of tokens.

        Args:
            captions: b captions.
            clip_skip: layers to leave out at the end, the final layer norm stays.
            prompt_weights: read brackets as weights (`ldm.models.prompt_weights`).
            long_prompts: "cut": k = 1 and the rest is left out; "chunks": as many as a caption needs
                (`ldm.models.prompt_chunks`).

        Raises: ValueError if there are not as many layers, for a weight that is no number, or weights after
            which no mean is left.
        """
        if not 0 <= clip_skip < self.layers:
            raise UserError(f"clip_skip must be in [0, {self.layers - 1}], got {clip_skip}")
        reader = self.reader
        read = [reader.read(caption, prompt_weights, long_prompts) for caption in captions]
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            h = self._hidden(
                self._tensor([ids for tokens in read for ids in tokens.ids]), self.layers - clip_skip
            )
            sizes = [len(tokens.ids) for tokens in read]
            if len(set(sizes)) == 1 and not prompt_weights:  # as many operations for each size of batch
                return Conditioning(tokens=h.reshape(len(captions), sizes[0] * h.shape[1], h.shape[2]))
            parts = [_weighted(part, tokens) for part, tokens in zip(h.split(sizes), read, strict=True)]
            return stacked(parts)

    def _hidden(self, ids: Int[Tensor, "b l"], layers: int) -> Float[Tensor, "b l d"]:
        """Hidden states after a number of layers and the final norm."""
        tower, n = self.tower, ids.shape[1]
        h = self.learned.embed(tower.token_embedding, ids) + tower.positional_embedding
        causal = torch.full((n, n), float("-inf"), dtype=h.dtype, device=h.device).triu(1)
        for block in tower.transformer.resblocks[:layers]:
            h = block(h, attn_mask=causal)
        return tower.ln_final(h)


def _weighted(h: Tensor, tokens: Tokens) -> Tensor:
    """Hidden states of the chunks of one caption with their weights, one behind the other, (k l, d)."""
    weights = torch.tensor(tokens.weights)
    return torch.cat([emphasised(chunk, w) for chunk, w in zip(h, weights, strict=True)])


def _check_sizes(max_length: int, vocabulary_size: int) -> None:
    if max_length < 2:
        raise ValueError(f"max_length must be at least 2, got {max_length}")
    if vocabulary_size < CLIP_VOCABULARY:
        least = f"at least {CLIP_VOCABULARY}, the number of CLIP's tokens"
        raise ValueError(f"vocabulary_size must be {least}, got {vocabulary_size}")


def _checked_tokens(added: Mapping[str, int], vocabulary_size: int) -> dict[str, int]:
    """The added tokens, after checking that each has a row of its own behind CLIP's."""
    for token, number in added.items():
        if not token or not CLIP_VOCABULARY <= number < vocabulary_size:
            raise UserError(
                f"added_tokens must have rows in [{CLIP_VOCABULARY}, {vocabulary_size}), got {token!r} at "
                f"{number}"
            )
    return dict(added)


def _check_model(model_name: str | None, pretrained: str, quick_gelu: bool) -> None:
    """Checks that open_clip has such a model, with such weights, for that activation."""
    import open_clip

    model = open_clip.get_model_config(model_name) if model_name in open_clip.list_models() else None
    if model is None or "hf_model_name" in model["text_cfg"]:
        raise UserError(
            f"model_name must be an open_clip model with its own text tower, such as 'ViT-L-14' or "
            f"'ViT-H-14', got {model_name!r}"
        )
    if Path(pretrained).is_file():
        return
    if not open_clip.is_pretrained_cfg(model_name, pretrained):
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        raise UserError(f"pretrained must be one of {tags} or a file, got {pretrained!r}")
    weights = open_clip.get_pretrained_cfg(model_name, pretrained)
    wanted = bool(model.get("quick_gelu", False)) or bool(weights.get("quick_gelu", False))
    if wanted != quick_gelu:
        raise UserError(
            f"quick_gelu must be {wanted} for the weights {pretrained!r} of {model_name}, got {quick_gelu}"
        )


def _load_clip(tower: nn.Module, model_name: str | None, pretrained: str, quick_gelu: bool) -> None:
    """Fills the tower with open_clip's weights, from a file or by download."""
    import open_clip
    from open_clip.factory import load_state_dict

    _check_model(model_name, pretrained, quick_gelu)
    try:
        path = pretrained
        if not Path(pretrained).is_file():
            path = open_clip.download_pretrained(open_clip.get_pretrained_cfg(model_name, pretrained))
        state: dict[str, Any] = load_state_dict(path)
    except Exception as error:  # whatever the hub's client raises without a network
        raise FileNotFoundError(
            f"the weights {pretrained!r} of {model_name} cannot be had ({type(error).__name__}): run once "
            f"with a network, give their file, or null for random weights"
        ) from error
    state = {key.removeprefix("text."): value for key, value in state.items()}
    for key, value in tower.state_dict().items():
        if key not in state or state[key].shape != value.shape:
            found = tuple(state[key].shape) if key in state else "nothing"
            raise UserError(
                f"{pretrained!r} of {model_name} does not fit this text tower: {key} must be "
                f"{tuple(value.shape)}, got {found}"
            )
    tower.load_state_dict({key: state[key].float() for key in tower.state_dict()})
