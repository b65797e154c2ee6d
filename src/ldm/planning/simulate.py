"""A training step on fake tensors: its memory and FLOPs, without weights, data, time or a GPU.

The tensors have shapes and dtypes but no values (`FakeTensorMode`: meta tensors that remember a device). The
module's own losses, the backward pass and the optimizer run on them op by op, and the planner follows every
storage from its first op to its last (`ldm.planning.memory_tracker`). So nothing is assumed about a net: what
autograd keeps for the backward pass is counted because autograd keeps it.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.planning.cuda_rules import CudaAutocast, gpu_kernels
from ldm.planning.memory_tracker import MemoryTracker, size_of
from ldm.planning.simulated_step import SimulatedStep, linear_in_batch
from ldm.planning.torch_internals import Fake
from ldm.training.distributed.sharding import blocks, recompute
from ldm.training.optim import parameters_of
from ldm.training.probe import Probe, Trained
from ldm.utils.errors import UserError

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
BATCHES = (2, 3)  # memory is linear in the batch, op by op, so two sizes determine it; 1 has other strides


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Circumstances of a step.

    Args:
        precision: Lightning's: "32-true", "bf16-mixed" or "16-mixed".
        gpu: use the attention kernels and the autocast rules of CUDA instead of the CPU's.
        checkpointing: the backbone's blocks are recomputed in the backward pass.
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


def simulate(
    make: Callable[[], Trained], setting: Setting, image_size: int, batches: tuple[int, ...] = BATCHES
) -> SimulatedStep:
    """Memory and FLOPs of a training step, from steps on fake tensors.

    Args:
        make: makes the module; called once, its nets are built on the meta device.
        setting: of the step.
        image_size: height and width of the images.
        batches: two sizes, from which any other follows, or the only size of interest.
    """
    probe = on_meta(make).probe(image_size, setting.precomputed)
    probe.warm_up()
    with Fake(), contextlib.ExitStack() as stack:
        if setting.gpu:
            stack.enter_context(gpu_kernels())
        _materialise(probe, setting)
        optimizers = _optimizers(probe)
        trackers = []
        for batch in batches:
            known = [t for tensors in _state(probe, optimizers).values() for t in tensors]
            trackers.append(MemoryTracker(known))
            with trackers[-1]:
                _step(probe, optimizers, trackers[-1], setting, probe.batch(batch))
        state = {name: size_of(tensors) for name, tensors in _state(probe, optimizers).items()}
    return SimulatedStep(
        parameters=sum(p.numel() for p in _trained(probe)),
        state=state,
        blocks=tuple(size_of(block.parameters()) for block in blocks(probe.net)),
        passes=probe.passes,
        **linear_in_batch(batches, trackers),
    )


def on_meta(make: Callable[[], Trained]) -> Trained:
    """A module with its nets, all on the meta device."""
    module = make()
    with torch.device("meta"):
        module.configure_model()
    return module


def _materialise(probe: Probe, setting: Setting) -> None:
    """Turns the nets' meta tensors into fake ones of the CPU and makes the probe ready for steps."""
    for net in (probe.module, *probe.frozen):
        net.to_empty(device="cpu")
    probe.attach()
    if (
        setting.checkpointing
    ):  # `backward` suspends the modes around it: recomputation has to enter them again
        recompute(probe.net, CudaAutocast if setting.gpu else contextlib.nullcontext)


def _trained(probe: Probe) -> list[nn.Parameter]:
    return [p for p in probe.module.parameters() if p.requires_grad]


def _state(probe: Probe, optimizers: list[Optimizer]) -> dict[str, list[Tensor]]:
    """The tensors that are in use all the time, by kind; untrained tensors of the module are its averages."""
    trained = _trained(probe)
    known = {id(p) for p in trained}
    averages = [t for t in (*probe.module.parameters(), *probe.module.buffers()) if id(t) not in known]
    states = [
        value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()
    ]
    return {
        "parameters": list(trained),
        "optimizer": [value for value in states if isinstance(value, Tensor)],
        "ema": averages,
        "frozen": [t for net in probe.resident for t in (*net.parameters(), *net.buffers())],
    }


def _optimizers(probe: Probe) -> list[Optimizer]:
    """The optimizers after a step, with their state; the gradients stay until the next, as in training."""
    made: Any = probe.module.configure_optimizers()
    optimizers = [made["optimizer"]] if isinstance(made, dict) else list(made[0])
    for optimizer in optimizers:
        for parameter in parameters_of(optimizer):
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    return optimizers


def _step(
    probe: Probe, optimizers: list[Optimizer], tracker: MemoryTracker, setting: Setting, batch: dict[str, Any]
) -> None:
    """A step in the order of Lightning's: gradients are cleared after the forward pass."""
    parameters = [p for p in _trained(probe) if p.grad is not None]
    for parameter in parameters:
        tracker.count_gradient(parameter)
    hooks = [p.register_post_accumulate_grad_hook(tracker.count_gradient) for p in parameters]
    later, dtype = [], AUTOCAST[setting.precision]
    with torch.autocast("cpu", dtype) if dtype is not None else contextlib.nullcontext():
        for index, loss in probe.losses(batch):
            if not setting.accumulate:
                optimizers[index].zero_grad()
            if probe.module.automatic_optimization:  # Lightning then leaves autocast before the backward pass
                later.append((index, loss))
            else:
                _backward(loss, optimizers[index], tracker)
    for index, loss in later:
        _backward(loss, optimizers[index], tracker)
    for hook in hooks:
        hook.remove()


def _backward(loss: Tensor, optimizer: Optimizer, tracker: MemoryTracker) -> None:
    """The backward pass of a loss, clipping and the optimizer's step."""
    tracker.backward = True
    loss.backward()
    tracker.backward = False
    parameters = parameters_of(optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    nn.utils.clip_grads_with_norm_(parameters, 1.0, norm)
    optimizer.step()
