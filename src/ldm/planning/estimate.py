"""Memory by kind, micro-batch, time and cost of a run on a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass

from ldm.planning.simulated_step import SimulatedStep
from ldm.utils.errors import UserError
from ldm.utils.size import GIB

MOST = 4096  # largest micro-batch that is considered


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal machines with equal devices.

    Args:
        devices: GPUs of a node.
        nodes: their number.
        memory_gib: of a device.
        reserved_gib: of it, not available to tensors: CUDA's context, workspaces of cuDNN and cuBLAS,
            buffers of NCCL, fragmentation.
        peak_tflops: peak 10^12 FLOP/s of a device in the precision of the run, from its data sheet.
        mfu: share of these that the model's FLOPs (thrice a forward pass) get.
        price: of a device for an hour, in dollars.
        gpu: the devices are GPUs, with other kernels than CPUs.
    """

    devices: int
    nodes: int
    memory_gib: float
    reserved_gib: float
    peak_tflops: float
    mfu: float
    price: float
    gpu: bool = True

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, least in (("devices", 1), ("nodes", 1), ("reserved_gib", 0), ("price", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("memory_gib", "peak_tflops"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0.0 < self.mfu <= 1.0:
            raise UserError(f"mfu must be in (0, 1], got {self.mfu}")

    @property
    def world(self) -> int:
        """Number of all devices."""
        return self.devices * self.nodes

    def share_of(self, batch_size: int) -> int:
        """Images of a step for each device.

        Raises: UserError if they cannot be spread evenly.
        """
        if batch_size % self.world:
            raise UserError(
                f"batch_size must be a multiple of {self.nodes} nodes x {self.devices} devices, "
                f"got {batch_size}"
            )
        return batch_size // self.world

    @property
    def room(self) -> float:
        """Bytes of a device for tensors."""
        return (self.memory_gib - self.reserved_gib) * GIB


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Distribution of a run over devices.

    Args:
        sharded: FSDP, over the devices of a node (and replicated over nodes), rather than DDP.
        checkpointing: the blocks' activations are recomputed in the backward pass.
    """

    sharded: bool
    checkpointing: bool

    def __str__(self) -> str:
        """As in "FSDP + checkpointing"."""
        return ("FSDP" if self.sharded else "DDP") + (" + checkpointing" if self.checkpointing else "")


STRATEGIES = tuple(Strategy(sharded=s, checkpointing=c) for s in (False, True) for c in (False, True))


def buffers(seen: SimulatedStep, cluster: Cluster, sharded: bool) -> int:
    """Bytes that the exchange of gradients and parameters needs on a rank.

    DDP copies the gradients into buckets. FSDP gathers the parameters outside of blocks all the time, and two
    blocks, the one that computes and the next, with the gradients of two: one's are being computed, the
    other's summed over the ranks.
    """
    if cluster.world == 1:
        return 0
    if not sharded:
        return seen.state["parameters"]
    two = sum(sorted(seen.blocks)[-2:])
    return seen.state["parameters"] - sum(seen.blocks) + 2 * two


def memory(seen: SimulatedStep, cluster: Cluster, sharded: bool, batch: int) -> dict[str, int]:
    """Bytes on a rank by kind, at the peak.

    Args:
        seen: a step.
        cluster: of the run.
        sharded: FSDP rather than DDP.
        batch: images of a rank at once.
    """
    share = 1.0 / cluster.devices if sharded else 1.0
    gradients, activations = seen.peak(batch, share)
    return {
        "parameters": round(share * seen.state["parameters"]),
        "gradients": gradients,
        "optimizer": round(share * seen.state["optimizer"]),
        "ema": round(share * seen.state["ema"]),
        "frozen": seen.state["frozen"],
        "buffers": buffers(seen, cluster, sharded),
        "activations": activations,
    }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run with one strategy on a cluster.

    Args:
        strategy: of the parallelism.
        largest: images of a rank at once that fit; 0: none does.
        micro_batch: images of a rank at once in the plan: at most `largest`, a divisor of the rank's images
            of a step; 1 if none fits.
        accumulate: micro-batches of a step.
        memory: bytes on a rank by kind with `micro_batch`.
        images_per_second: of all devices.
        days: of the run.
        cost: of the run, in dollars.
    """

    strategy: Strategy
    largest: int
    micro_batch: int
    accumulate: int
    memory: dict[str, int]
    images_per_second: float
    days: float
    cost: float

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return sum(self.memory.values())


def largest_batch(seen: SimulatedStep, cluster: Cluster, sharded: bool) -> int:
    """Largest micro-batch that fits on a rank; 0 if none does."""
    fits, too_many = 0, MOST + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if sum(memory(seen, cluster, sharded, middle).values()) <= cluster.room:
            fits = middle
        else:
            too_many = middle
    return fits


def plan(
    steps: Mapping[bool, SimulatedStep], cluster: Cluster, strategy: Strategy, batch_size: int, images: int
) -> Plan:
    """The plan of a run.

    Time is the FLOPs of the model and of recomputed blocks over the devices' peak times MFU: waiting for data
    and the overhead of many nodes count only through MFU.

    Args:
        steps: of the module, with checkpointing and without.
        cluster: of the run.
        strategy: of the parallelism.
        batch_size: images of a step, over all ranks.
        images: of the run.

    Raises: UserError if a step's images cannot be spread evenly.
    """
    seen, own = steps[strategy.checkpointing], cluster.share_of(batch_size)
    largest = largest_batch(seen, cluster, strategy.sharded)
    micro = max(m for m in range(1, max(min(own, largest), 1) + 1) if own % m == 0)
    again = sum(seen.flops.values()) - sum(steps[False].flops.values())
    speed = cluster.world * cluster.peak_tflops * 1e12 * cluster.mfu / (seen.model_flops + again)
    days = images / speed / 86_400
    return Plan(
        strategy=strategy,
        largest=largest,
        micro_batch=micro,
        accumulate=own // micro,
        memory=memory(seen, cluster, strategy.sharded, micro),
        images_per_second=speed,
        days=days,
        cost=days * 24 * cluster.world * cluster.price,
    )


def plans_of(
    steps: Mapping[bool, SimulatedStep], cluster: Cluster, batch_size: int, max_steps: int, shardable: bool
) -> list[Plan]:
    """The plans of a stage by all strategies that differ on the cluster.

    Args:
        steps: of the module, with checkpointing and without.
        cluster: of the run.
        batch_size: images of a step, over all ranks.
        max_steps: steps of the stage.
        shardable: FSDP can train the module.
    """
    strategies = [s for s in STRATEGIES if not s.sharded or (shardable and cluster.world > 1)]
    return [plan(steps, cluster, strategy, batch_size, batch_size * max_steps) for strategy in strategies]
