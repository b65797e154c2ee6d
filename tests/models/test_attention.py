import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ldm.models.attention import GEGLU, Attention, SelfAttentionBlock, SpatialTransformer, attend


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 4, 16, 8), (1, 3, 7, 5)])
def test_attend_written_out_equals_the_fused_kernel(shape: tuple[int, ...]):
    q, k, v = (normal(*shape, seed=i).requires_grad_() for i in range(3))
    written = attend(q, k, v)
    gradients = torch.autograd.grad(written.square().sum(), (q, k, v))
    fused = F.scaled_dot_product_attention(q, k, v)
    expected = torch.autograd.grad(fused.square().sum(), (q, k, v))
    assert torch.allclose(written, fused, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(gradients, expected, strict=True))
    with torch.no_grad():
        assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_attend_written_out_survives_large_scores():
    q, k, v = (
        normal(1, 1, 4, 8).mul(1e3).requires_grad_(),
        normal(1, 1, 4, 8, seed=1) * 1e3,
        normal(1, 1, 4, 8),
    )
    assert attend(q, k, v).isfinite().all()


def test_attend_in_autocast_keeps_the_dtype_of_the_values():
    q, k, v = (normal(1, 2, 4, 8, seed=i).bfloat16().requires_grad_() for i in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        written = attend(q, k, v)
    assert written.dtype == torch.bfloat16
    assert torch.allclose(
        written.float(), F.scaled_dot_product_attention(q.float(), k.float(), v.float()), atol=0.03
    )


@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("context_dim", [None, 6])
def test_attention_equals_torch_multi_head_attention(num_heads: int, context_dim: int | None):
    torch.manual_seed(0)
    ours = Attention(8, num_heads, context_dim, bias=True)
    inner = context_dim or 8
    theirs = nn.MultiheadAttention(8, num_heads, kdim=inner, vdim=inner, batch_first=True)
    x = normal(2, 5, 8)
    context = x if context_dim is None else normal(2, 3, context_dim, seed=1)
    with torch.no_grad():
        projections = [ours.to_q, ours.to_k, ours.to_v]
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        if context_dim is None:
            theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        else:
            for name, p in zip("qkv", projections, strict=True):
                getattr(theirs, f"{name}_proj_weight").copy_(p.weight)
        theirs.out_proj.load_state_dict(ours.to_out.state_dict())
        expected = theirs(x, context, context, need_weights=False)[0]
        out = ours(x, None if context_dim is None else context)
    assert torch.allclose(out, expected, atol=1e-6)


def test_attention_does_not_depend_on_the_order_of_the_context():
    torch.manual_seed(0)
    attention, x, context = Attention(8, 2, 6), normal(1, 5, 8), normal(1, 4, 6)
    assert torch.allclose(attention(x, context), attention(x, context.flip(1)), atol=1e-6)


def test_heads_that_do_not_divide_the_width_are_named():
    with pytest.raises(ValueError, match=r"num_heads must divide the width 8, got 3"):
        Attention(8, 3)


@pytest.mark.parametrize("linear", [True, False])
def test_blocks_start_as_the_identity(linear: bool):
    x = normal(2, 8, 3, 5)
    assert torch.equal(SelfAttentionBlock(8, 2, 4, zero_init=True)(x), x)
    transformer = SpatialTransformer(8, 2, 6, linear_projection=linear, norm_groups=4)
    assert torch.equal(transformer(x, normal(2, 3, 6)), x)


def test_geglu_is_a_gated_product():
    torch.manual_seed(0)
    layer, x = GEGLU(4, 3), normal(2, 4)
    a, gate = (
        x @ layer.proj.weight[:3].T + layer.proj.bias[:3],
        x @ layer.proj.weight[3:].T + layer.proj.bias[3:],
    )
    assert torch.allclose(layer(x), a * gate * 0.5 * (1 + torch.erf(gate / 2**0.5)), atol=1e-6)
