"""Snapshots of a run's power-function averages: one file a moment, within a budget; their sums as a model."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ldm.checkpoints.assemble import LoadedModel, Source, assemble
from ldm.checkpoints.loader import unchanged
from ldm.checkpoints.native import own_names
from ldm.checkpoints.tensors import TensorFiles
from ldm.utils.errors import UserError
from ldm.utils.files import replacing

NAME = re.compile(r"images_(\d{12,})\.safetensors")
FORMAT = "ldm-ema"
KEY = "ldm"  # a single one: safetensors leaves the order of several to chance, and files are to be equal
HEADER, ENTRY = 2**15, 2**8  # bytes, at most, of the header's metadata and of what it says of each tensor
FEWEST = 4  # snapshots, one of them while it is written


def _key(sigma_rel: float, name: str) -> str:
    """Name of a tensor of an average in a snapshot's file."""
    return f"{sigma_rel!r}/{name}"


@dataclass(frozen=True, kw_only=True)
class Thinning:
    """Selection of the moments to keep within a budget.

    The first moment, the newest, and those between whose number is a multiple of 1, 2, 4, ..., the smallest
    for which there is room: evenly spread, and a function of the newest moment alone. What stays after a
    moment has stayed after the one before, so a run that was stopped and went on keeps the same.

    Args:
        every_n_images: interval of the moments; moment k is the first step with k intervals seen.
        batch_size: images of a step.
        room: how many moments may stay, at least 3.
    """

    every_n_images: int
    batch_size: int
    room: int

    def number(self, images: int) -> int:
        """Number of the moment at which so many images were seen; 0: it is none."""
        number = images // self.every_n_images
        return number if number > (images - self.batch_size) // self.every_n_images else 0

    def keeps(self, images: int, newest: int) -> bool:
        """True if a snapshot is kept once the newest one is at `newest` images."""
        if images >= newest:
            return images == newest
        others = newest // self.every_n_images - (self.number(newest) > 0)  # moments before the newest
        stride = 1
        while others // stride + (stride > 1) > self.room - 1:
            stride *= 2
        number = self.number(images)
        return number == 1 or (number > 0 and number % stride == 0)


class SnapshotStore:
    """Snapshots `images_000000016000.safetensors` in a folder; each whole or not there.

    Args:
        folder: of the snapshots.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, images: int) -> Path:
        """File of the snapshot at so many images."""
        return self.folder / f"images_{images:012d}.safetensors"

    def moments(self) -> list[int]:
        """Images seen at the snapshots that there are, in order."""
        if not self.folder.is_dir():
            return []
        found = (NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def remove(self, which: Callable[[int], bool]) -> None:
        """Removes the snapshots of some moments, and what a killed process left half-written."""
        for left in self.folder.glob(".*.tmp"):
            left.unlink()
        for images in filter(which, self.moments()):
            self.path(images).unlink()

    def add(
        self, images: int, averages: Mapping[float, Mapping[str, Tensor]], about: Mapping[str, Any]
    ) -> Path:
        """Writes a snapshot.

        Args:
            images: seen so far.
            averages: sigma_rel -> name -> tensor, as they are to be stored.
            about: plain types: the model's "config", paths of its "autoencoder" and, fine-tuned, "base".

        Raises: ValueError if a tensor is not finite in its type; OSError if the file cannot be written.
        """
        tensors = {_key(s, name): x for s, average in averages.items() for name, x in average.items()}
        for name, x in tensors.items():
            if x.is_floating_point() and not bool(x.isfinite().all()):
                raise UserError(f"{name} holds NaN or infinite values in {x.dtype}")
        said = {"format": FORMAT, "images": images, "sigma_rel": list(averages), **about}
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.path(images)) as temporary:
            try:
                save_file(tensors, temporary, {KEY: json.dumps(said, sort_keys=True)})
            except SafetensorError as error:
                raise OSError(f"cannot write {self.path(images)}: {error}") from error
        return self.path(images)


def room_within(budget: float, tensors: Iterable[Tensor]) -> int:
    """Number of snapshots within a budget that leaves room for one being written.

    Args:
        budget: bytes.
        tensors: of a snapshot, as they are stored.

    Raises: ValueError if there is none for the fewest.
    """
    size = HEADER + sum(ENTRY + x.numel() * x.element_size() for x in tensors)
    if budget < FEWEST * size:
        raise UserError(
            f"budget_gigabytes must be at least {FEWEST * size / 1e9:.3g}, {FEWEST} snapshots of "
            f"{size / 1e9:.3g} GB, got {budget / 1e9:.3g}"
        )
    return int(budget // size) - 1


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Metadata of a snapshot's file.

    Args:
        path: the file.
        images: seen so far.
        sigma_rel: relative widths of its averages.
        config: of the model.
        autoencoder: path of the first stage, relative to the run; empty if it has no weights.
        base: of fine-tuning, the checkpoint that has the nets that are not trained.
    """

    path: Path
    images: int
    sigma_rel: tuple[float, ...]
    config: dict[str, Any]
    autoencoder: str
    base: str | None = None


def read_snapshots(run: Path) -> list[Snapshot]:
    """The snapshots of a run, in order.

    Raises: FileNotFoundError if there is none; ValueError if a file is damaged or something else.
    """
    store = SnapshotStore(run / "ema")
    found = []
    for images in store.moments():
        path = store.path(images)
        with TensorFiles([path]) as files:
            said = json.loads(files.metadata.get(KEY, "{}"))
        if said.get("format") != FORMAT:
            raise UserError(f"{path} is no snapshot of averages")
        widths = tuple(float(s) for s in said["sigma_rel"])
        config, first = said["config"], said["autoencoder"]
        nets = {"autoencoder": first, "base": said.get("base")}
        found.append(Snapshot(path=path, images=images, sigma_rel=widths, config=config, **nets))
    if not found:
        raise FileNotFoundError(f"no snapshots in {store.folder}: train with averages=power")
    return found


class WeightedSum(TensorFiles):
    """A sum of averages in snapshots as if it were a file; whole numbers are those of the last.

    Args:
        terms: snapshot, sigma_rel and weight of each average.
    """

    def __init__(self, terms: list[tuple[Snapshot, float, float]]) -> None:
        super().__init__([terms[-1][0].path])
        prefix = _key(terms[-1][1], "")
        self.rename(lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None)
        self._terms = [(TensorFiles([s.path]), sigma_rel, weight) for s, sigma_rel, weight in terms]
        self._get = {name: partial(self._sum, name) for name in self.shapes}

    def _sum(self, name: str) -> Tensor:
        total: Tensor | None = None
        for files, sigma_rel, weight in self._terms:
            tensor = files.get(_key(sigma_rel, name))
            if not tensor.is_floating_point():
                total = tensor
            elif total is None:
                total = weight * tensor.double()
            else:
                total += weight * tensor.double()
        assert total is not None
        return total.float() if total.is_floating_point() else total


def summed_model(run: Path, terms: list[tuple[Snapshot, float, float]]) -> LoadedModel:
    """A model whose trained nets are a sum of averages; the first stage is that of the run.

    Args:
        run: its directory.
        terms: snapshot, sigma_rel and weight of each average, the last one's snapshot being the newest.

    Raises: FileNotFoundError if the first stage is gone; ValueError if tensors and config do not fit.
    """
    newest = terms[-1][0]
    with ExitStack() as stack:
        files = stack.enter_context(WeightedSum(terms))
        parts: dict[str, TensorFiles] = {name.partition(".")[0]: files for name in files.shapes}
        if newest.autoencoder:
            first = run / newest.autoencoder
            if not first.is_file():
                raise FileNotFoundError(f"the first stage of {run} is not at {first}")
            parts["autoencoder"] = stack.enter_context(TensorFiles([first]))
            parts["autoencoder"].rename(lambda name: name if name.startswith("autoencoder.") else None)
        source = Source(
            path=newest.path, config=newest.config, files=parts, names=own_names, base=newest.base
        )
        return assemble(source, "cpu", torch.float32, unchanged(source, "cpu", torch.float32))
