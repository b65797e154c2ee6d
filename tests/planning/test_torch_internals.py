"""The private parts of torch that the planner uses exist and do what it relies on."""

import torch

from ldm.planning.torch_internals import Fake, flop_formula, fused_attention, storage_id, tensors_in


def test_fake_tensors_have_shapes_and_the_device_of_a_cpu():
    with Fake():
        x = torch.zeros(2, 3) @ torch.ones(3, 4)
    assert x.shape == (2, 4)
    assert x.device.type == "cpu"


def test_real_and_fake_tensors_mix():
    real = torch.ones(3)
    with Fake():
        assert (torch.zeros(3) + real).shape == (3,)


def test_views_share_the_number_of_their_storage():
    x = torch.zeros(4)
    assert storage_id(x.untyped_storage()) == storage_id(x[1:].untyped_storage())
    assert storage_id(x.untyped_storage()) != storage_id(torch.zeros(4).untyped_storage())


def test_tensors_are_found_in_nested_containers():
    x, y = torch.zeros(1), torch.zeros(2)
    assert list(tensors_in([x, {"a": (y, 3)}, None])) == [x, y]


def test_matrix_products_have_a_formula_and_sums_have_none():
    assert flop_formula(torch.ops.aten.mm.default) is not None
    assert flop_formula(torch.ops.aten.add.Tensor) is None


def test_attention_kernels_of_cuda_run_on_fake_tensors():
    with Fake():
        for dtype in (torch.float32, torch.bfloat16):
            q = torch.zeros(2, 4, 16, 8, dtype=dtype)
            assert fused_attention(q, q, q).shape == q.shape
