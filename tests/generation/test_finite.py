import pytest
import torch

from ldm.generation.finite import NotFiniteError, check_finite, check_step
from ldm.utils.errors import Failure


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_names_tensor_module_and_dtype(bad):
    with pytest.raises(NotFiniteError) as caught:
        check_finite(torch.tensor([0.0, bad]), "the image", "autoencoder", torch.float16)
    expected = "NaN or infinite values in the image (module autoencoder, torch.float16); try dtype float32"
    assert str(caught.value) == expected
    assert isinstance(caught.value, ArithmeticError)
    assert isinstance(caught.value, Failure)  # one line at the command line, not a traceback


def test_finite_values_pass_however_large():
    check_finite(torch.tensor([torch.finfo(torch.float32).max, 0.0]), "x", "net", torch.float32)
    check_step(0, torch.zeros(1), torch.zeros(1), torch.float32)


def test_a_step_blames_the_net_before_the_scheduler():
    good, bad = torch.zeros(2), torch.tensor([0.0, float("nan")])
    net = r"estimate of x0 at step 3 \(module backbone, torch.bfloat16\)"
    for x in (good, bad):
        with pytest.raises(NotFiniteError, match=net):
            check_step(3, x, bad, torch.bfloat16)
    with pytest.raises(NotFiniteError, match=r"latents after step 3 \(module scheduler, torch.float32\)"):
        check_step(3, bad, good, torch.bfloat16)
