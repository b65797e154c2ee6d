"""A training step on fake tensors: its memory and FLOPs, without weights, data, time or a GPU.

The tensors have shapes and dtypes but no numbers (`FakeTensorMode`: meta tensors that remember a device). The
module's own `training_step`, the backward pass and the optimizer run on them op by op, and every storage is
seen to come and go (`ldm.planning.memory_tracker`). So nothing is assumed about a net: what autograd keeps
for the backward pass is counted because autograd keeps it.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from ldm.diffusion.conditioning import Conditioning
from ldm.planning.cuda_rules import CudaAutocast, gpu_kernels
from ldm.planning.memory_tracker import MemoryTracker, size_of
from ldm.training.autoencoder import AutoencoderTraining
from ldm.training.distributed.sharding import blocks
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.optim import parameters_of
from ldm.utils.errors import UserError

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
BATCHES = (2, 3)  # memory is linear in the batch, op by op, so two sizes say it for all; 1 has other strides
CAPTION = "a word"

Trained = LatentDiffusion | AutoencoderTraining


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a step is made.

    Args:
        precision: Lightning's: "32-true", "bf16-mixed" or "16-mixed".
        gpu: with the attention kernels and the autocast rules of CUDA rather than the CPU's.
        checkpointing: the backbone's blocks are computed again in the backward pass, not kept.
        accumulate: gradients of earlier parts of the batch are alive during the whole step.
        precomputed: latents come from the data, encoded ahead of time; frozen nets are neither held nor run.
    """

    precision: str = "32-true"
    gpu: bool = False
    checkpointing: bool = False
    accumulate: bool = False
    precomputed: bool = False

    def __post_init__(self) -> None:
        """Checks the precision."""
        if self.precision not in AUTOCAST:
            raise UserError(
                f"precision must be one of {list(AUTOCAST)} to be planned, got {self.precision!r}"
            )


@dataclass(frozen=True, kw_only=True)
class SimulatedStep:
    """What a step was seen to need; sizes in bytes.

    Args:
        parameters: number of trained parameters.
        state: bytes that are there all the time: parameters, optimizer, ema, frozen.
        gradients: bytes of gradients alive after each op.
        fixed: bytes of everything else alive after each op, as far as it does not depend on the batch.
        per_image: bytes that each image of the batch adds to `fixed`.
        blocks: bytes of the parameters of each block of the backbone (`strategy.blocks`).
        flops: of a step for an image, by torch's formulas: of the "trained" nets' forward pass, of the
            "frozen" ones', and of what is "backward", with what is computed again.
    """

    parameters: int
    state: dict[str, int]
    gradients: np.ndarray
    fixed: np.ndarray
    per_image: np.ndarray
    blocks: tuple[int, ...]
    flops: dict[str, int]

    @property
    def model_flops(self) -> int:
        """FLOPs of training on an image as MFU has them: thrice a forward pass of the nets trained."""
        return 3 * self.flops["trained"] + self.flops["frozen"]

    def peak(self, batch: int, share: float = 1.0) -> tuple[int, int]:
        """(gradients, activations and whatever else) at the moment when they need most together.

        Args:
            batch: images at once.
            share: part of each gradient that a rank keeps.
        """
        rest = self.fixed + self.per_image * batch
        most = int(np.argmax(share * self.gradients + rest))
        return round(share * self.gradients[most]), round(rest[most])


class Fake(FakeTensorMode):
    """Fake tensors of the CPU; whether there is a GPU is not asked at each op, which takes long."""

    avoid_device_init = True


def on_meta(make: Callable[[], Trained]) -> Trained:
    """A module with its nets, all on the meta device."""
    module = make()
    with torch.device("meta"):
        module.configure_model()
    if isinstance(module, LatentDiffusion):  # tables that are kept are made here, where they have numbers
        module.diffusion.schedule(torch.zeros(1), 4)
        with torch.no_grad():
            module.text_encoder(module.nets).encode([CAPTION])
    return module


def simulate(
    make: Callable[[], Trained], setting: Setting, image_size: int, batches: tuple[int, ...] = BATCHES
) -> SimulatedStep:
    """Makes a training step on fake tensors.

    Args:
        make: makes the module; called once, on the meta device.
        setting: how the step is made.
        image_size: height and width of the images.
        batches: two sizes, from which any other follows, or one, and it is known for that one alone.
    """
    module = on_meta(make)
    with Fake(allow_non_fake_inputs=True), contextlib.ExitStack() as stack:
        if setting.gpu:
            stack.enter_context(gpu_kernels())
        _prepare(module, setting, image_size)
        optimizers = _optimizers(module)
        trackers = []
        for batch in batches:
            kept = [t for tensors in _state(module, optimizers).values() for t in tensors]
            trackers.append(MemoryTracker(kept))
            with trackers[-1]:
                _step(module, optimizers, trackers[-1], setting, _batch(batch, image_size))
        state = {name: size_of(tensors) for name, tensors in _state(module, optimizers).items()}
    if setting.precomputed:
        state["frozen"] = 0
    return SimulatedStep(
        parameters=sum(p.numel() for p in _trained(module)),
        state=state,
        blocks=tuple(size_of(block.parameters()) for block in blocks(net_of(module))),
        **_lines(batches, trackers),
    )


def _lines(batches: Sequence[int], trackers: Sequence[MemoryTracker]) -> dict[str, Any]:
    """Memory and FLOPs as linear functions of the batch: exact, as the ops are the same for all batches."""
    (gradients, small), (_, large) = (tracker.history() for tracker in (trackers[0], trackers[-1]))
    more = batches[-1] - batches[0]
    slope = (large - small) / max(more, 1)
    flops = {
        name: (trackers[-1].flops[name] - few) // more if more else few // batches[0]
        for name, few in trackers[0].flops.items()
    }
    return {"gradients": gradients, "fixed": small - batches[0] * slope, "per_image": slope, "flops": flops}


def net_of(module: Trained) -> nn.Module:
    """The net whose blocks are sharded and computed again."""
    net = module.nets["backbone"] if isinstance(module, LatentDiffusion) else module.net
    assert isinstance(net, nn.Module)
    return net


def _trained(module: Trained) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _frozen(module: Trained) -> tuple[nn.Module, ...]:
    if isinstance(module, LatentDiffusion):
        text = module.weights.frozen_text
        return (module.autoencoder,) if text is None else (module.autoencoder, text)
    return module._perceptual


def _state(module: Trained, optimizers: list[Optimizer]) -> dict[str, list[Tensor]]:
    """The tensors that are there all the time, by kind; whatever the module holds untrained is its EMA."""
    trained = _trained(module)
    known = {id(p) for p in trained}
    held = [t for t in (*module.parameters(), *module.buffers()) if id(t) not in known]
    states = [
        value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()
    ]
    return {
        "parameters": list(trained),
        "optimizer": [value for value in states if isinstance(value, Tensor)],
        "ema": held,
        "frozen": [t for net in _frozen(module) for t in (*net.parameters(), *net.buffers())],
    }


def _prepare(module: Trained, setting: Setting, image_size: int) -> None:
    """Makes the tensors fake ones and takes out of a step what looks at numbers: they have none."""
    for net in (module, *_frozen(module)):
        net.to_empty(device="cpu")
    if isinstance(module, LatentDiffusion):
        _prepare_diffusion(module, setting, image_size)
    else:
        module.adversarial_start = 0  # when it has started, a step needs most
    if setting.checkpointing:
        rules = (
            CudaAutocast if setting.gpu else contextlib.nullcontext
        )  # `backward` puts those around it aside
        again = {"context_fn": lambda: (contextlib.nullcontext(), rules())}
        for block in blocks(net_of(module)):
            block.forward = partial(  # type: ignore[method-assign]
                checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False, **again
            )


def _prepare_diffusion(module: LatentDiffusion, setting: Setting, image_size: int) -> None:
    """Takes the drawing of captions out, and the encoding of what was encoded before."""
    module.encoder.caption_dropout = 0.0
    size = image_size // int(module.autoencoder.downscale)
    shape = (int(module.autoencoder.latent_channels), size, size)
    if setting.precomputed or module.encoder.cache is not None:
        module.encoder.latents = lambda batch: torch.zeros(len(batch["key"]), *shape)  # type: ignore[method-assign]
    text = module.text_encoder(module.nets)
    if setting.precomputed and not text.trainable:
        length, width = text.max_length or 1, text.context_dim
        text.encode = lambda captions: Conditioning(  # type: ignore[method-assign]
            tokens=None if width is None else torch.zeros(len(captions), length, width)
        )


def _optimizers(module: Trained) -> list[Optimizer]:
    """The optimizers after a step, with their state; the gradients stay until the next, as in training."""
    made: Any = module.configure_optimizers()
    optimizers = [made["optimizer"]] if isinstance(made, dict) else list(made[0])
    for optimizer in optimizers:
        for parameter in parameters_of(optimizer):
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    return optimizers


def _batch(size: int, image_size: int) -> dict[str, Any]:
    return {
        "image": torch.zeros(size, 3, image_size, image_size),
        "caption": [CAPTION] * size,
        "key": torch.arange(size),
        "visit": torch.zeros(size, dtype=torch.int64),
    }


def _step(
    module: Trained,
    optimizers: list[Optimizer],
    tracker: MemoryTracker,
    setting: Setting,
    batch: dict[str, Any],
) -> None:
    """A step in the order of Lightning's: gradients go after the forward pass."""

    def finish(index: int, loss: Tensor) -> None:
        if not setting.accumulate:
            optimizers[index].zero_grad()
        tracker.backward = True
        loss.backward()
        tracker.backward = False
        parameters = parameters_of(optimizers[index])
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        nn.utils.clip_grads_with_norm_(parameters, 1.0, norm)
        optimizers[index].step()

    parameters = [p for p in _trained(module) if p.grad is not None]
    for parameter in parameters:
        tracker.count_gradient(parameter)
    hooks = [p.register_post_accumulate_grad_hook(tracker.count_gradient) for p in parameters]
    dtype = AUTOCAST[setting.precision]
    with torch.autocast("cpu", dtype) if dtype is not None else contextlib.nullcontext():
        if isinstance(module, AutoencoderTraining):
            module._optimise = finish  # type: ignore[method-assign]
        out = module.training_step(batch, 0)
    if isinstance(module, LatentDiffusion):
        finish(0, out.pop("loss"))
    for hook in hooks:
        hook.remove()
