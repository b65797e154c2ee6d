"""Time-conditioned U-Net with cross-attention, in SD's topology (Rombach et al. 2022, Sec. 3.3)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.diffusion.conditioning import Conditioning
from ldm.models.attention import SelfAttentionBlock, SpatialTransformer
from ldm.models.blocks import (
    Downsample,
    ResBlock,
    Upsample,
    guidance_features,
    timestep_embedding,
    zero_,
)
from ldm.utils.errors import UserError

ATTENTION_KINDS = ("none", "self", "cross")


class Level(nn.Module):
    """One resolution: residual blocks, each followed by attention, and the change of resolution."""

    def __init__(
        self, resnets: list[nn.Module], attentions: list[nn.Module], resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)
        if resample is not None:
            self.resample = resample
        self.has_resample = resample is not None

    def step(
        self, i: int, h: Tensor, embedding: Tensor, tokens: Tensor | None, identity: Tensor | None = None
    ) -> Tensor:
        """Returns the features after the i-th residual block and its attention."""
        h = self.resnets[i](h, embedding)
        if not len(self.attentions):
            if identity is not None:
                raise UserError(
                    "PAG perturbs the attention of the middle block, which this net lacks: set mid_attention "
                    "to true"
                )
            return h
        return self.attentions[i](h, tokens, identity)


def _heads(
    channels: Sequence[int],
    attention: Sequence[str],
    mid_attention: str,
    num_heads: int | Sequence[int],
    head_dim: int | None,
) -> list[int]:
    """Attention heads of each level, after checking what was asked for."""
    levels = len(channels)
    if len(attention) != levels:
        raise UserError(f"attention needs {levels} entries, one per level, got {len(attention)}")
    if unknown := sorted({*attention, mid_attention} - set(ATTENTION_KINDS)):
        raise UserError(f"attention must be of {ATTENTION_KINDS}, got {unknown}")
    if head_dim is not None:
        return [max(c // head_dim, 1) for c in channels]
    heads = [num_heads] * levels if isinstance(num_heads, int) else list(num_heads)
    if len(heads) != levels:
        raise UserError(f"num_heads must be one number or {levels}, one per level, got {heads}")
    return heads


def _time_embed(width: int, embedding_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim))


def _position(width: int, size: int) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(width, size, size), std=0.02))


class Layout(nn.Module):
    """A feature map made of the pooled condition: `rank` learned maps, weighted by a net of two layers.

    What a spatially constant embedding says about *where* has to be worked out by the convolutions; this path
    says it at once. On small data the captions are told apart ten times sooner (experiments/emoji_large).

    Args:
        pooled_dim: channels of the pooled condition.
        rank: number of maps, and width of the net.
        channels: channels of the feature map.
        size: its height and width.
    """

    def __init__(self, pooled_dim: int, rank: int, channels: int, size: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            nn.Linear(pooled_dim, rank), nn.SiLU(), nn.Linear(rank, rank), nn.LayerNorm(rank)
        )
        self.maps = nn.Parameter(nn.init.normal_(torch.empty(rank, channels, size, size), std=0.02))

    def forward(self, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b c h w"]:
        """The weighted sum of the maps."""
        return (self.weights(pooled) @ self.maps.flatten(1)).unflatten(1, self.maps.shape[1:])


@dataclass(frozen=True)
class _Builder:
    """Makes the levels of one U-Net from what all of them share; the arguments are the U-Net's."""

    embedding_dim: int
    norm_groups: int
    dropout: float
    context_dim: int | None
    transformer_depth: int
    linear_projection: bool

    def resnet(self, c_in: int, c_out: int) -> nn.Module:
        return ResBlock(
            c_in, c_out, self.embedding_dim, self.norm_groups, dropout=self.dropout, zero_init=True
        )

    def attention(self, kind: str, channels: int, num_heads: int, count: int) -> list[nn.Module]:
        if kind == "none":
            return []
        if kind == "self":
            return [
                SelfAttentionBlock(channels, num_heads, self.norm_groups, 1e-5, zero_init=True)
                for _ in range(count)
            ]
        parts = (self.context_dim, self.transformer_depth, self.linear_projection, self.norm_groups)
        return [SpatialTransformer(channels, num_heads, *parts) for _ in range(count)]

    def down(
        self, channels: Sequence[int], layers: int, attention: Sequence[str], heads: list[int]
    ) -> tuple[nn.ModuleList, list[int]]:
        """The levels on the way down and the channels of all skip connections, in order."""
        levels, skips, c = nn.ModuleList(), [channels[0]], channels[0]
        for i, width in enumerate(channels):
            resnets = [self.resnet(c_in, width) for c_in in [c] + [width] * (layers - 1)]
            attentions = self.attention(attention[i], width, heads[i], layers)
            resample = Downsample(width) if i < len(channels) - 1 else None
            levels.append(Level(resnets, attentions, resample))
            skips += [width] * (layers + (resample is not None))
            c = width
        return levels, skips

    def mid(self, channels: int, attention: str, heads: int) -> Level:
        """The middle: residual block, attention, residual block."""
        resnets = [self.resnet(channels, channels) for _ in range(2)]
        return Level(resnets, self.attention(attention, channels, heads, 1), None)

    def up(
        self,
        channels: Sequence[int],
        layers: int,
        attention: Sequence[str],
        heads: list[int],
        skips: list[int],
    ) -> nn.ModuleList:
        """The levels on the way up, each block taking the skip connection made last."""
        levels, skips, c = nn.ModuleList(), list(skips), channels[-1]
        for i, width in reversed(list(enumerate(channels))):
            resnets = []
            for _ in range(layers + 1):
                resnets.append(self.resnet(c + skips.pop(), width))
                c = width
            attentions = self.attention(attention[i], width, heads[i], layers + 1)
            levels.append(Level(resnets, attentions, Upsample(width) if i else None))
        return levels


def _supported(mid_attention: str, guidance_dim: int | None) -> frozenset[str]:
    """The kinds of guidance that a net takes part in."""
    found = {"pag": mid_attention != "none", "guidance_scale": guidance_dim is not None}
    return frozenset(name for name, able in found.items() if able)


class UNet(nn.Module):
    """The denoising net (x_t, t, cond) -> out.

    Args:
        in_channels: channels of x_t and of `cond.concat` together (4 + 5 for SD's inpainting net).
        out_channels: channels of the output.
        channels: width of each level, from the full resolution down.
        layers_per_block: residual blocks per level (the way up has one more).
        attention: per level "none", "self" (DDPM) or "cross" (spatial transformer).
        mid_attention: the same for the middle.
        num_heads: attention heads, one number or one per level.
        head_dim: channels per head instead of `num_heads`.
        context_dim: channels of the context tokens; None when there are none.
        transformer_depth: transformer blocks per spatial transformer.
        linear_projection: linear rather than 1x1-convolution projections in the spatial transformer (SD 2.x).
        pooled_dim: channels of a pooled condition added to the time embedding; None when there is none.
        position_size: height and width of a learned position table added after the first convolution; None
            for none.
        layout_rank: number of learned maps that the pooled condition weights, added beside the position table
            (`Layout`); None for none.
        guidance_dim: features of the guidance scale that a distilled net reads (`guidance_features`); None
            for a net that is not told the scale.
        norm_groups: groups of all GroupNorms.
        dropout: dropout inside the residual blocks.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        layers_per_block: int = 2,
        attention: Sequence[str],
        mid_attention: str = "cross",
        num_heads: int | Sequence[int] = 8,
        head_dim: int | None = None,
        context_dim: int | None = None,
        transformer_depth: int = 1,
        linear_projection: bool = False,
        pooled_dim: int | None = None,
        position_size: int | None = None,
        layout_rank: int | None = None,
        guidance_dim: int | None = None,
        norm_groups: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        heads = _heads(channels, attention, mid_attention, num_heads, head_dim)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.context_dim, self.pooled_dim = context_dim, pooled_dim
        self.downscale = 2 ** (len(channels) - 1)
        self.supports = _supported(mid_attention, guidance_dim)
        embedding_dim = 4 * channels[0]
        self._add_embeddings(channels[0], embedding_dim, guidance_dim, pooled_dim)
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self._add_position(channels[0], position_size, layout_rank)
        shared = (embedding_dim, norm_groups, dropout, context_dim, transformer_depth, linear_projection)
        build = _Builder(*shared)
        self.down, skips = build.down(channels, layers_per_block, attention, heads)
        self.mid = build.mid(channels[-1], mid_attention, heads[-1])
        self.up = build.up(channels, layers_per_block, attention, heads, skips)
        self.norm_out = nn.GroupNorm(norm_groups, channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(channels[0], out_channels, 3, padding=1)
        zero_(self.conv_out)

    def _add_embeddings(
        self, channels: int, embedding_dim: int, guidance_dim: int | None, pooled_dim: int | None
    ) -> None:
        """Makes the embeddings of the time, the guidance scale and the pooled condition."""
        self.time_embed = _time_embed(channels, embedding_dim)
        self.guidance_dim = guidance_dim
        if guidance_dim is not None:
            self.guidance_embed = nn.Linear(guidance_dim, channels, bias=False)
        if pooled_dim is not None:
            self.pooled_embed = nn.Linear(pooled_dim, embedding_dim)

    def _add_position(self, channels: int, position_size: int | None, layout_rank: int | None) -> None:
        """Makes the learned position table and the maps that the pooled condition weights, if any."""
        if position_size is not None:
            self.position = _position(channels, position_size)
        self.has_position, self.position_size = position_size is not None, position_size
        self.has_layout = layout_rank is not None
        if layout_rank is None:
            return
        if self.pooled_dim is None or position_size is None:
            raise UserError(
                f"layout_rank needs pooled_dim and position_size, got {layout_rank} with {self.pooled_dim} "
                f"and {position_size}"
            )
        self.layout = Layout(self.pooled_dim, layout_rank, channels, position_size)

    def embed(self, t: Float[Tensor, " b"], cond: Conditioning) -> Float[Tensor, "b e"]:
        """Returns the embedding of the time, of the guidance scale and of the pooled condition."""
        dtype = self.conv_in.weight.dtype
        features = timestep_embedding(t, self.conv_in.out_channels).to(dtype)
        if self.guidance_dim is not None:
            if cond.guidance is None:
                raise UserError(f"guidance_dim={self.guidance_dim} needs the guidance scale, got none")
            scale = guidance_features(cond.guidance, self.guidance_dim)
            features = features + self.guidance_embed(scale.to(dtype))
        embedding = self.time_embed(features)
        if self.pooled_dim is None:
            return embedding
        if cond.pooled is None:
            raise UserError(f"pooled_dim={self.pooled_dim} needs a pooled condition, got none")
        return embedding + self.pooled_embed(cond.pooled)

    def _input(self, x_t: Tensor, cond: Conditioning) -> Tensor:
        """x_t with the further channels that the net takes."""
        x = x_t if cond.concat is None else torch.cat([x_t, cond.concat.to(x_t.dtype)], dim=1)
        if x.shape[1] != self.in_channels:
            raise UserError(
                f"in_channels={self.in_channels} does not fit {x_t.shape[1]} channels of x_t and "
                f"{x.shape[1] - x_t.shape[1]} of the conditioning"
            )
        return x

    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b k h w"]:
        """The net's output at noisy input x_t and time t.

        Args:
            x_t: noisy input of any height and width.
            t: time in schedule units, real-valued.
            cond: context tokens, pooled vector and further input channels, as `context_dim`, `pooled_dim` and
                `in_channels` ask for.

        Returns: what the prediction type says (eps, v or x0).
        """
        embedding, tokens = self.embed(t, cond), cond.tokens
        if self.context_dim is not None and tokens is None:
            raise UserError(f"context_dim={self.context_dim} needs context tokens, got none")
        h = self.conv_in(self._input(x_t, cond))
        if self.has_position:
            h = h + self.position
        if self.has_layout:
            h = h + self.layout(cond.pooled)
        skips = [h]
        for level in cast(Iterable[Level], self.down):
            for i in range(len(level.resnets)):
                h = level.step(i, h, embedding, tokens)
                skips.append(h)
            if level.has_resample:
                h = level.resample(h)
                skips.append(h)
        h = self.mid.step(0, h, embedding, tokens, cond.identity_attention)
        h = self.mid.resnets[1](h, embedding)
        for level in cast(Iterable[Level], self.up):
            for i in range(len(level.resnets)):
                h = level.step(i, torch.cat([h, skips.pop()], dim=1), embedding, tokens)
            if level.has_resample:
                h = level.resample(h, skips[-1].shape[2:])
        return self.conv_out(F.silu(self.norm_out(h)))
