"""What a run needs on a cluster, before its first GPU hour: memory by kind, micro-batch, time and cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from ldm.planning.simulate import SimulatedStep
from ldm.utils.errors import UserError
from ldm.utils.size import GIB

MOST = 4096  # images at once that are thought of


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal machines with equal devices.

    Args:
        devices: GPUs of a node.
        nodes: their number.
        memory_gib: of a device.
        reserved_gib: of it, for what no tensor of ours holds: CUDA's context, workspaces of cuDNN and cuBLAS,
            buffers of NCCL, gaps.
        peak_tflops: most 10^12 FLOP/s of a device in the precision of the run, as its maker says.
        mfu: share of these that the model's FLOPs (thrice a forward pass) get.
        price: of a device for an hour, in dollars.
        gpu: whether the devices are GPUs, with other kernels than CPUs.
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

        Raises: ValueError if they cannot be spread evenly.
        """
        if batch_size % self.world:
            raise UserError(
                f"batch_size must be a multiple of {self.nodes} nodes x {self.devices} devices (cluster), "
                f"got {batch_size}"
            )
        return batch_size // self.world

    @property
    def room(self) -> float:
        """Bytes of a device for our tensors."""
        return (self.memory_gib - self.reserved_gib) * GIB


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How a run is spread over devices.

    Args:
        sharded: FSDP, over the devices of a node (and replicated over nodes), rather than DDP.
        checkpointing: the blocks' activations are computed again in the backward pass.
    """

    sharded: bool
    checkpointing: bool

    def __str__(self) -> str:
        """As in "FSDP + checkpointing"."""
        return ("FSDP" if self.sharded else "DDP") + (" + checkpointing" if self.checkpointing else "")


STRATEGIES = tuple(Strategy(sharded=s, checkpointing=c) for s in (False, True) for c in (False, True))


def buffers(seen: SimulatedStep, cluster: Cluster, sharded: bool) -> int:
    """Bytes that the exchange of gradients and parameters needs on a rank.

    DDP copies the gradients into buckets. FSDP holds whole, of what is sharded: the parameters outside of
    blocks all the time, and two blocks, the one that computes and the next, with the gradients of two: one's
    are being made, the other's summed over the ranks.
    """
    if cluster.world == 1:
        return 0
    if not sharded:
        return seen.state["parameters"]
    two = sum(sorted(seen.blocks)[-2:])
    return seen.state["parameters"] - sum(seen.blocks) + 2 * two


def memory(seen: SimulatedStep, cluster: Cluster, sharded: bool, batch: int) -> dict[str, int]:
    """Bytes on a rank by kind, at the moment when they are most.

    Args:
        seen: a step.
        cluster: where.
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
        strategy: how it is spread.
        largest: images of a rank at once that fit; 0: none does.
        micro_batch: images of a rank at once that are to be taken: at most `largest`, a divisor of the rank's
            images of a step; 1 if none fits.
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
    """Most images at once that a rank has room for; 0 if not even one."""
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

    Time is the model's FLOPs, and those of blocks that are computed again, over the devices' peak times MFU:
    neither waiting for data nor the loss of many nodes is in it but through MFU.

    Args:
        steps: of the module, with checkpointing and without.
        cluster: where.
        strategy: how.
        batch_size: images of a step, over all ranks.
        images: of the run.

    Raises: ValueError if a step's images cannot be spread evenly.
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
