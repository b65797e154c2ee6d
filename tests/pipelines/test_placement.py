"""Nets are moved, cast and offloaded, whichever pipeline does it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ldm import Image2ImagePipeline, InpaintPipeline, Text2ImagePipeline
from ldm.checkpoints.assemble import LoadedModel
from ldm.generation.offload import Offload, offload_of
from ldm.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FAST = {"num_inference_steps": 2, "seed": 3, "output": "tensor"}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
MASK = np.eye(16, dtype=bool)
CALLS: list[tuple[type, dict[str, Any]]] = [
    (Text2ImagePipeline, {"height": 16, "width": 16}),
    (Image2ImagePipeline, {"image": PICTURE, "batch_size": 1, "num_images_per_prompt": 2}),
    (InpaintPipeline, {"image": PICTURE, "mask": MASK}),
]


@pytest.fixture
def pipeline(stable_diffusion: Callable[..., LoadedModel]) -> Text2ImagePipeline:
    model = stable_diffusion("sd1", 0, f8=True)
    return Text2ImagePipeline(**model.components, config=model.config)


@pytest.fixture
def residents(monkeypatch: pytest.MonkeyPatch) -> set[nn.Module]:
    """The modules that were moved to the device "cpu:0" and not back to "cpu" since."""
    there: set[nn.Module] = set()
    to = nn.Module.to

    def recorded(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if args == (torch.device("cpu:0"),):
            there.add(self)
        if args == (torch.device("cpu"),):
            there.discard(self)
        return to(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "to", recorded)
    return there


@pytest.mark.parametrize(("kind", "options"), CALLS)
@pytest.mark.parametrize("tiled", [False, True])
def test_offloaded_nets_compute_alone_on_the_device_and_make_the_same_image(
    pipeline: Text2ImagePipeline, kind: type, options: dict[str, Any], tiled: bool, residents: set[nn.Module]
):
    made = kind.from_pipe(pipeline)
    if tiled:
        made.enable_vae_tiling(rows=1)
    wanted = made("a", **FAST, **options)
    assert made.enable_model_cpu_offload("cpu:0") is made
    seen: list[str] = []
    names = {net: name for name, net in (("vae", made.autoencoder), ("net", made.backbone))}

    def check(module: nn.Module, _: Any) -> None:
        owner = next(net for net in names if any(module is part for part in net.modules()))
        assert residents == {owner}
        seen.append(names[owner])

    hooks = [part.register_forward_pre_hook(check) for net in names for part in net.modules()]
    assert torch.equal(made("a", **FAST, **options), wanted)
    assert {"vae", "net"} == set(seen)
    assert not residents
    for hook in hooks:
        hook.remove()


def test_layers_of_the_net_visit_the_device_one_at_a_time(
    pipeline: Text2ImagePipeline, residents: set[nn.Module]
):
    options = CALLS[0][1]
    wanted = pipeline("a", **FAST, **options)
    pipeline.enable_sequential_cpu_offload("cpu:0")
    most = 0

    def count(*_: Any) -> None:
        nonlocal most
        inside = [part for part in pipeline.backbone.modules() if part in residents]
        assert len(inside) == 1
        most = max(most, sum(p.numel() for p in inside[0].parameters()))

    hooks = [part.register_forward_hook(count) for part in pipeline.backbone.modules() if _holds(part)]
    for part in pipeline.backbone.modules():  # ours before the one that moves the layer back
        part._forward_hooks.move_to_end(next(iter(part._forward_hooks))) if len(
            part._forward_hooks
        ) > 1 else None
    assert torch.equal(pipeline("a", **FAST, **options), wanted)
    assert 0 < most < sum(p.numel() for p in pipeline.backbone.parameters()) / 2
    assert not residents
    for hook in hooks:
        hook.remove()


def _holds(part: nn.Module) -> bool:
    return next(part.parameters(recurse=False), None) is not None


def test_a_move_ends_offloading_and_a_cast_does_not(pipeline: Text2ImagePipeline):
    pipeline.enable_model_cpu_offload("cpu:0").to(dtype=torch.bfloat16)
    assert isinstance(offload_of(pipeline.backbone), Offload)
    assert pipeline.dtype == torch.bfloat16
    pipeline.to("cpu")
    assert offload_of(pipeline.backbone) is offload_of(pipeline.autoencoder) is None


@pytest.mark.parametrize(
    "how", [(torch.bfloat16,), ("cpu", torch.bfloat16), (None, "bf16"), ("cpu", "bfloat16")]
)
def test_nets_are_cast_as_with_torch(pipeline: Text2ImagePipeline, how: tuple[Any, ...]):
    assert pipeline.to(*how).dtype == torch.bfloat16
    assert {p.dtype for net in pipeline.nets for p in net.parameters()} == {torch.bfloat16}
    with pytest.raises(UserError, match="device must be one of"):
        pipeline.to("nowhere")


def test_offloading_to_the_cpu_is_said_to_save_nothing(
    pipeline: Text2ImagePipeline, caplog: pytest.LogCaptureFixture
):
    pipeline.enable_sequential_cpu_offload("cpu")
    assert "offloading saves nothing on the CPU" in caplog.text
