"""Layout of nets over ranks and in time: blocks that are sharded, recomputed and compiled (FSDP2)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint as recomputed

from ldm.models.protocols import TextEncoder
from ldm.utils.distributed import is_main


def blocks(net: nn.Module) -> Iterator[nn.Module]:
    """The blocks that a net is a sequence of: the items of its lists of modules that are called.

    A list's item without a `forward` (a level of a U-Net) holds lists of its own; what is in no list (the
    embeddings, the first and the last layers) belongs to no block.
    """
    for child in net.children():
        if isinstance(child, nn.ModuleList):
            for item in child:
                called = type(item).forward is not nn.Module.forward
                yield from [item] if called else blocks(item)
        else:
            yield from blocks(child)


def recompute(net: nn.Module, modes: Callable[[], AbstractContextManager[Any]] | None = None) -> None:
    """Lets the backward pass recompute the activations of blocks, which are not stored.

    Args:
        net: the net.
        modes: makes a context to recompute in, for blocks that draw nothing; None restores the state of the
            random number generators instead.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if modes is not None:
        options |= {"preserve_rng_state": False, "context_fn": lambda: (nullcontext(), modes())}
    for block in blocks(net):
        forward = block.forward

        def again(*args: Any, forward: Callable[..., Any] = forward, **kwargs: Any) -> Any:
            return recomputed(forward, *args, **options, **kwargs)

        block.forward = again


def compile_blocks(net: nn.Module) -> None:
    """Compiles the blocks in place: names of parameters stay, and blocks of a kind are compiled once."""
    for block in blocks(net):
        block.compile()


def shard(net: nn.Module, mesh: DeviceMesh) -> None:
    """Shards a net's parameters block by block, and the rest as one (FSDP2).

    Args:
        net: the net; the parameters become `DTensor`s, and keep their names.
        mesh: ("data_parallel", "tensor_parallel") as Lightning makes it: copies x ranks of a copy.
    """
    if mesh.size(0) == 1:
        mesh = mesh["tensor_parallel"]
    for block in blocks(net):
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh)
    # by default what is in no block stays gathered after a forward pass: a twin would be used as it was then
    fully_shard(net, mesh=mesh, reshard_after_forward=True)
    if isinstance(net, TextEncoder):  # it is called by this name
        register_fsdp_forward_method(net, "encode")


def arrange(
    nets: nn.ModuleDict, twins: Sequence[nn.Module], mesh: DeviceMesh | None, recomputes: bool, compiles: bool
) -> None:
    """Applies the layout of a run to nets and the averages that follow them.

    Args:
        nets: the nets that are trained.
        twins: their moving averages, sharded alike.
        mesh: of the ranks, if parameters are sharded.
        recomputes: recompute the activations of blocks.
        compiles: compile the blocks, in place.
    """
    for net in nets.values():
        if recomputes:
            recompute(net)
        if compiles:
            compile_blocks(net)
    if mesh is not None:
        for group in (nets, *twins):
            for net in group.children():
                shard(net, mesh)


def is_sharded(net: nn.Module) -> bool:
    """True for a net whose parameters are spread over ranks."""
    return any(isinstance(p, DTensor) for p in net.parameters())


def whole(net: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """A sharded net in one piece on the first rank, a collective operation; other nets unchanged.

    Args:
        net: the net.
        make: builds a net of the same parameters.
    """
    if not is_sharded(net):
        return net
    state = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not is_main():
        return net
    with torch.random.fork_rng(devices=[]):
        result = make()
    result.load_state_dict(state)
    return result.requires_grad_(False).eval()
