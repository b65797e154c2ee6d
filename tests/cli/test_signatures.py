"""Documentation of classes from their source, without importing them."""

import subprocess
import sys

from ldm.cli.signatures import arguments, contract, definition, documented, summary


def test_args_of_a_docstring():
    text = "One.\n\nArgs:\n    a: first\n        more.\n    b, c: both.\n    d (2,): shape.\n\nReturns: x"
    assert documented(text) == {"a": "first more.", "b": "both.", "c": "both.", "d": "shape."}
    assert documented("None.") == {}


def test_re_exported_names_are_followed():
    found = definition("ldm.diffusion.Diffusion")
    assert found is None or found[1] == "ldm.diffusion.process"
    assert definition("torch.optim.AdamW") is None
    assert definition("ldm.nowhere.X") is None


def test_arguments_with_comments_and_values():
    found = arguments("ldm.models.unet.UNet")
    assert found["dropout"].comment
    assert arguments("ldm.schedulers.ddim.DDIM")["eta"].comment
    assert summary("ldm.schedulers.ddim.DDIM").startswith("Denoising diffusion implicit")


def test_contract_lists_members_with_their_types():
    lines = contract("ldm.models.protocols.Backbone")
    assert "  context_dim: int | None" in lines
    assert any(line.startswith("  __call__(x_t: Float[Tensor, 'b c h w']") for line in lines)


def test_no_torch_is_imported():
    code = (
        "import sys; from ldm.cli.signatures import contract; contract('ldm.models.protocols.Backbone');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
