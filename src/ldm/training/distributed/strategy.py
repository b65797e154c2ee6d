"""The strategies of a run on several ranks: copies (DDP) or shards (FSDP2), and how they save."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, ParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ldm.checkpoints.store import REST
from ldm.training.lightning_internals import set_mesh
from ldm.utils.errors import UserError


def distributed(
    shard: bool, copies: int | None = None, timeout: float = 300.0, find_unused: bool = False
) -> ParallelStrategy:
    """The strategy of a run on several ranks: DDP, or FSDP2.

    Args:
        shard: spread nets, gradients, optimizer and EMA over the ranks; otherwise each rank has a copy.
        copies: of the model, each sharded over as many ranks; None: one for each node (HSDP).
        timeout: seconds after which a collective operation whose other side is silent is an error.
        find_unused: allow backward passes through some parameters only, as of two nets that train in turn.
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
        """Creates the mesh of the ranks."""
        ranks = self.num_nodes * self.num_processes
        copies = self.num_nodes if self.copies is None else self.copies
        if copies < 1 or ranks % copies:
            raise UserError(f"copies must divide the {ranks} ranks, got {copies}")
        set_mesh(self, copies, ranks // copies)
        super().setup_environment()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Writes each rank's shards and, once, the rest; a collective operation."""
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
        """Loads this rank's shards into nets and optimizers; returns the rest of the checkpoint."""
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
