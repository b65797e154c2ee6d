"""Pipelines on a GPU: the default device and dtype, and offloading that saves its memory."""

from collections.abc import Callable

import pytest
import torch

from ldm import Text2ImagePipeline
from ldm.checkpoints.assemble import LoadedModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CALL = {"height": 64, "width": 64, "num_inference_steps": 2, "seed": 3, "output": "tensor"}


@pytest.fixture
def pipeline(stable_diffusion: Callable[..., LoadedModel]) -> Text2ImagePipeline:
    model = stable_diffusion("sd1", 0, f8=True)
    return Text2ImagePipeline(**model.components, config=model.config)


def test_the_default_dtype_is_what_the_gpu_computes_in(pipeline: Text2ImagePipeline):
    wanted = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    pipeline.to("auto", "auto")
    assert (pipeline.device.type, pipeline.dtype) == ("cuda", wanted)
    assert pipeline("a cat", **CALL).isfinite().all()


def test_images_of_a_gpu_are_those_of_the_cpu(pipeline: Text2ImagePipeline):
    wanted = pipeline("a cat", **CALL)
    torch.testing.assert_close(pipeline.to("cuda")("a cat", **CALL).cpu(), wanted, rtol=0, atol=0.02)


@pytest.mark.parametrize("how", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloading_saves_memory_and_changes_no_image(pipeline: Text2ImagePipeline, how: str):
    wanted, whole = _sampled(pipeline.to("cuda"))
    assert getattr(pipeline, how)() is pipeline
    found, part = _sampled(pipeline)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert part < whole
    assert {p.device.type for net in pipeline.nets for p in net.parameters()} == {"cpu"}


def _sampled(pipeline: Text2ImagePipeline) -> tuple[torch.Tensor, int]:
    """Images, and the most memory of the GPU that was taken, in bytes."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    images = pipeline("a cat", **CALL).cpu()
    return images, torch.cuda.max_memory_allocated()
