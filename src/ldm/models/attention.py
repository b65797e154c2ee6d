"""Attention of Stable Diffusion: over positions, and to a context (Rombach et al. 2022, Sec. 3.3)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.models.blocks import zero_


def attend(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h m d"], v: Float[Tensor, "b h m d"]
) -> Float[Tensor, "b h n d"]:
    """Softmax attention softmax(q k^T / sqrt(d)) v.

    On a CPU with gradients the products are written out, because the backward pass of the fused kernel is
    several times slower there than two batched matrix products; elsewhere the fused kernel is used.

    Args:
        q: queries.
        k: keys.
        v: values.

    Returns: the attended values.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled():
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return scores.softmax(dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head attention from a sequence to itself or to a context.

    Args:
        width: channels of the queries and of the output.
        num_heads: heads; divides `width`.
        context_dim: channels of keys and values; None for self-attention.
        bias: whether the query, key and value projections have a bias (the VAE's have).
    """

    def __init__(
        self, width: int, num_heads: int, context_dim: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"num_heads must divide the width {width}, got {num_heads}")
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(context_dim or width, width, bias=bias)
        self.to_v = nn.Linear(context_dim or width, width, bias=bias)
        self.to_out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        context: Float[Tensor, "b m k"] | None = None,
        identity: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Attention output, (b, n, c), for queries `x` and keys/values from `context` (default: `x`).

        In the rows of `identity` each position attends to itself alone (Ahn et al. 2024, arXiv:2403.17377).
        """
        context = x if context is None else context
        q, k, v = (
            f(y).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (b, heads, n, d)
            for f, y in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        out = attend(q, k, v)
        if identity is not None:
            out = torch.where(identity.view(-1, 1, 1, 1), v, out)
        return self.to_out(out.transpose(1, 2).flatten(2))


class SelfAttentionBlock(nn.Module):
    """Residual self-attention over positions, as in DDPM's U-Net and the VAE (Ho et al. 2020, App. B).

    Args:
        channels: channels of the feature map.
        num_heads: attention heads.
        norm_groups: groups of the GroupNorm.
        eps: of the GroupNorm (1e-6 in the VAE, 1e-5 in the U-Net).
        zero_init: start as the identity.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        norm_groups: int = 32,
        eps: float = 1e-6,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=eps)
        self.attention = Attention(channels, num_heads, bias=True)
        if zero_init:
            zero_(self.attention.to_out)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        context: Tensor | None = None,
        identity: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Returns x plus attention over its positions; `context` is ignored, `identity` as in `Attention`."""
        h = self.norm(x).flatten(2).transpose(1, 2)  # (b, h w, c)
        return x + self.attention(h, identity=identity).transpose(1, 2).unflatten(2, x.shape[2:])


class GEGLU(nn.Module):
    """Gated feed-forward input layer x -> a * gelu(g) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b k"]:
        """Returns the gated hidden activations."""
        a, gate = self.proj(x).chunk(2, dim=-1)
        return a * F.gelu(gate)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention, cross-attention to the context, gated feed-forward.

    Args:
        width: channels.
        num_heads: attention heads.
        context_dim: channels of the context; None leaves the cross-attention out.
    """

    def __init__(self, width: int, num_heads: int, context_dim: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, num_heads)
        if context_dim is not None:
            self.norm2 = nn.LayerNorm(width)
            self.attn2 = Attention(width, num_heads, context_dim)
        self.norm3 = nn.LayerNorm(width)
        self.ff = nn.Sequential(GEGLU(width, 4 * width), nn.Linear(4 * width, width))
        self.context_dim = context_dim

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        context: Float[Tensor, "b m k"] | None = None,
        identity: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Returns the transformed sequence; `identity` is for the self-attention, as in `Attention`."""
        x = x + self.attn1(self.norm1(x), identity=identity)
        if self.context_dim is not None:
            x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer over the positions of a feature map with cross-attention (Rombach et al. 2022, Eq. 5).

    Args:
        channels: channels of the feature map.
        num_heads: attention heads.
        context_dim: channels of the context; None leaves the cross-attention out.
        depth: number of transformer blocks.
        linear_projection: project with a linear layer (SD 2.x) rather than a 1x1 convolution (SD 1.x).
        norm_groups: groups of the GroupNorm.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        context_dim: int | None,
        depth: int = 1,
        linear_projection: bool = False,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        self.linear_projection = linear_projection
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = (
            nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        )
        self.blocks = nn.ModuleList(TransformerBlock(channels, num_heads, context_dim) for _ in range(depth))
        self.proj_out = (
            nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        )
        zero_(self.proj_out)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        context: Float[Tensor, "b m k"] | None = None,
        identity: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Returns x plus what the transformer adds at each position; `identity` as in `Attention`."""
        h = self.norm(x)
        h = h if self.linear_projection else self.proj_in(h)
        h = h.flatten(2).transpose(1, 2)  # (b, h w, c)
        h = self.proj_in(h) if self.linear_projection else h
        for block in self.blocks:
            h = block(h, context, identity)
        h = self.proj_out(h) if self.linear_projection else h
        h = h.transpose(1, 2).unflatten(2, x.shape[2:])  # (b, c, h, w)
        return x + (h if self.linear_projection else self.proj_out(h))
