"""A model over many ranks: what is sharded, recomputed and compiled, and how they save (FSDP2, DDP)."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint as recomputed

from ldm.checkpoints.store import REST
from ldm.models.protocols import TextEncoder
from ldm.utils.distributed import initialised, is_main
from ldm.utils.errors import UserError


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


def recompute(net: nn.Module) -> None:
    """Makes the blocks forget their activations, which the backward pass computes again."""
    for block in blocks(net):
        forward = block.forward

        def again(*args: Any, forward: Callable[..., Any] = forward, **kwargs: Any) -> Any:
            return recomputed(forward, *args, use_reentrant=False, **kwargs)

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
    nets: nn.ModuleDict, twins: list[nn.Module], mesh: DeviceMesh | None, recomputes: bool, compiles: bool
) -> None:
    """Lays nets and the twins that follow them out as the trainer asks.

    Args:
        nets: the nets that are trained.
        twins: their moving averages, sharded alike.
        mesh: of the ranks, if parameters are sharded.
        recomputes: whether blocks recompute their activations.
        compiles: whether blocks are compiled, in place.
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
    """Whether a net's parameters are on several ranks."""
    return any(isinstance(p, DTensor) for p in net.parameters())


def whole(net: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """A sharded net in one piece, on the first rank; all ranks have to ask. Other nets as they are.

    Args:
        net: the net.
        make: makes one like it.
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


def distributed(
    shard: bool, copies: int | None = None, timeout: float = 300.0, find_unused: bool = False
) -> ParallelStrategy:
    """The strategy of a run on several ranks: DDP, or FSDP2.

    Args:
        shard: whether nets, gradients, optimizer and EMA are sharded; otherwise each rank has a copy.
        copies: of the model, each sharded over as many ranks; None: one for each node (HSDP).
        timeout: seconds after which a collective operation whose other side is silent is an error.
        find_unused: whether each backward pass is of some parameters only, as where two nets train in turn.
    """
    if timeout <= 0:
        raise UserError(f"timeout must be above 0, got {timeout}")
    if shard:
        return FullySharded(copies, timedelta(seconds=timeout))
    return DDPStrategy(timeout=timedelta(seconds=timeout), find_unused_parameters=find_unused)


class FullySharded(ModelParallelStrategy):
    """FSDP2 in modules that shard themselves; checkpoints are safetensors of each rank's shards (DCP).

    Lightning's own sharded checkpoints are pickles. These hold the same state, and can be read on any number
    of ranks: `shard-*.safetensors` with each tensor's place in its header, and what is no tensor beside them.

    Args:
        copies: of the model; None: one for each node.
        timeout: of collective operations.
    """

    def __init__(self, copies: int | None, timeout: timedelta) -> None:
        super().__init__(timeout=timeout)
        self.copies = copies

    def setup_environment(self) -> None:
        """Makes the mesh of the ranks."""
        ranks = self.num_nodes * self.num_processes
        copies = self.num_nodes if self.copies is None else self.copies
        if copies < 1 or ranks % copies:
            raise UserError(f"copies must divide the {ranks} ranks, got {copies}")
        self._data_parallel_size, self._tensor_parallel_size = copies, ranks // copies
        super().setup_environment()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Writes each rank's shards and, once, the rest; to be called on all ranks."""
        path, rest = Path(filepath), dict(checkpoint)
        tensors: dict[str, Any] = dict(rest.pop("state_dict"))
        optimizers = rest.pop("optimizer_states", [])
        for i, state in enumerate(optimizers):
            tensors[f"optimizer_{i}"] = state["state"]
        rest["param_groups"] = [state["param_groups"] for state in optimizers]
        path.mkdir(parents=True, exist_ok=True)
        dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(path), save_distributed=True))
        if self.is_global_zero:
            torch.save(rest, path / REST)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads this rank's shards into nets and optimizers; returns what else the checkpoint holds."""
        path = Path(checkpoint_path)
        if not path.is_dir():
            return super().load_checkpoint(path, weights_only=True)
        rest = torch.load(path / REST, weights_only=True, map_location="cpu")
        assert self.model is not None
        tensors: dict[str, Any] = dict(get_model_state_dict(self.model))
        names = list(tensors)
        states = [get_optimizer_state_dict(self.model, optimizer) for optimizer in self.optimizers]
        for i, state in enumerate(states):
            tensors[f"optimizer_{i}"] = state["state"]
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(path)))
        set_model_state_dict(self.model, {name: tensors[name] for name in names})
        for i, (optimizer, groups) in enumerate(zip(self.optimizers, rest.pop("param_groups"), strict=True)):
            state = {"state": tensors[f"optimizer_{i}"], "param_groups": groups}
            set_optimizer_state_dict(self.model, optimizer, state)
        return rest


def share(count: int, rank: int, world: int) -> Iterator[tuple[int, bool]]:
    """This rank's of the numbers 0 .. count - 1, with whether each counts; all ranks get as many.

    Where there are fewer left than ranks, those with none work on the first number, for nothing: what sharded
    nets do, all ranks have to do.
    """
    for start in range(0, count, world):
        yield (start + rank, True) if start + rank < count else (0, False)


def summed(x: Tensor) -> Tensor:
    """The sum of the ranks' tensors, in place."""
    if initialised():
        torch.distributed.all_reduce(x)
    return x
