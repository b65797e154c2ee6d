"""Manifest of a folder of precomputed latents, and its validation against a run's nets and data."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ldm.checkpoints.serialization import fingerprint, packed, unpacked
from ldm.data.batch import to_float
from ldm.data.shards.index import open_binary
from ldm.diffusion import random
from ldm.models.protocols import TextEncoder
from ldm.utils.errors import UserError
from ldm.utils.files import replacing, write_text

ABOUT, REFERENCE = "latents.json", "reference.safetensors"
VERSION = 1
RESIZE = "bicubic, antialiased; centre crop"
TOLERANCE = 0.05  # of the reference: what devices and bfloat16 change is less, another net more


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that the latents in a folder depend on.

    Args:
        autoencoder: fingerprint of its weights.
        text_encoder: likewise; None if captions were not encoded.
        image_size: height and width of the images; with buckets of none.
        buckets: their (height, width); None for none.
        resize: how images were brought to that size.
        caption: where captions were, as in `ldm.data.laion.LaionData`.
        fallback: likewise.
        filters: which samples were used.
        max_pixels: of an image.
        dtype: in which the latents are stored.
        precision: in which they were computed.
        source: hash of the index of the image shards.
        shards: names of the shards, in order.
        version: of this format.
    """

    autoencoder: str
    text_encoder: str | None
    image_size: int
    buckets: list[list[int]] | None
    caption: str
    fallback: str | None
    filters: dict[str, Any]
    max_pixels: int
    dtype: str
    precision: str
    source: str
    shards: list[str]
    resize: str = RESIZE
    version: int = VERSION

    @property
    def key(self) -> str:
        """A hash of it all."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def differences(self, other: "Manifest") -> list[str]:
        """The names of what differs."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]

    def write(self, folder: Path, reference: dict[str, Tensor]) -> None:
        """Notes in a folder what its latents are made of; if that was done before, it must be the same.

        Args:
            folder: it exists.
            reference: of `reference_of`.

        Raises: ValueError if it holds latents made of something else.
        """
        begun = any(
            folder.rglob("*.tar")
        )  # before latents.json is looked for, which is there before shards are
        if (folder / ABOUT).is_file():
            found = self.differences(read_manifest(str(folder)))
            if found:
                raise UserError(
                    f"{folder} holds latents made with another {', '.join(found)}: choose another folder or "
                    "remove it"
                )
            return
        if begun:
            raise UserError(f"{folder} holds shards, but no {ABOUT}: choose another folder")
        with replacing(folder / REFERENCE) as temporary:
            temporary.write_bytes(packed(reference, {}))
        write_text(folder / ABOUT, json.dumps(asdict(self) | {"key": self.key}, indent=1))


def read_manifest(folder: str) -> Manifest:
    """Manifest of the latents in a folder, local or remote.

    Raises: FileNotFoundError if there are none; ValueError if it cannot be read.
    """
    values = _read(folder, ABOUT, f"no latents in {folder}: make them with ldm-data precompute")
    try:
        said = json.loads(values)
        if said["version"] != VERSION:
            raise UserError(f"version {said['version']}, not {VERSION}")
        key = said.pop("key")
        found = Manifest(**said)
        if found.key != key:
            raise UserError("it was changed by hand")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}/{ABOUT} cannot be used: {error}") from error
    return found


def read_reference(folder: str) -> dict[str, Tensor]:
    """Stored outputs of the nets for the reference picture and the empty caption.

    Raises: FileNotFoundError; ValueError if it is damaged.
    """
    data = _read(folder, REFERENCE, f"no {REFERENCE} in {folder}")
    try:
        return unpacked(data)[0]
    except ValueError as error:
        raise UserError(f"{folder}/{REFERENCE} cannot be used: {error}") from error


def _read(folder: str, name: str, otherwise: str) -> bytes:
    try:
        with open_binary(f"{folder}/{name}") as file:
            data: bytes = file.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(otherwise) from error
    return data


@torch.no_grad()
def reference_of(autoencoder: nn.Module, text_encoder: TextEncoder | None) -> dict[str, Tensor]:
    """Outputs of the nets for a picture of noise and for the empty caption, float32.

    Weights alone do not say all of a net: this shows whether it is built in the same way, too.

    Returns: mean and std (c, h, w); of a text encoder tokens (l, d) and pooled (p,), where it has them.
    """
    side = 8 * int(autoencoder.downscale)  # type: ignore[arg-type]
    pixels = random.randint(0, "reference", torch.zeros(1, dtype=torch.int64), 0, 256, (3, side, side))
    device = next((p.device for p in autoencoder.parameters()), torch.device("cpu"))
    posterior = autoencoder.encode(to_float(pixels.to(torch.uint8)).to(device))  # type: ignore[operator]
    found = {"mean": posterior.mean[0], "std": (0.5 * posterior.logvar[0]).exp()}
    if text_encoder is not None:
        cond = text_encoder.encode([""])
        found |= {n: v[0] for n, v in (("tokens", cond.tokens), ("pooled", cond.pooled)) if v is not None}
    return {name: value.float().cpu() for name, value in found.items()}


def check_nets(
    folder: str, manifest: Manifest, autoencoder: nn.Module, text_encoder: TextEncoder | None
) -> None:
    """Makes sure that latents (and embeddings) are those that these nets would give.

    Args:
        folder: of the latents.
        manifest: of them.
        autoencoder: that of the run.
        text_encoder: likewise; None if the embeddings are not used.

    Raises: ValueError saying what differs.
    """
    reference, here = read_reference(folder), reference_of(autoencoder, text_encoder)
    nets = [("autoencoder", manifest.autoencoder, autoencoder, ("mean", "std"))]
    if text_encoder is not None:
        known = manifest.text_encoder or ""
        nets.append(("text encoder", known, cast(nn.Module, text_encoder), ("tokens", "pooled")))
    for name, known, net, parts in nets:
        weights = fingerprint(net)
        if weights != known:
            raise UserError(
                f"the latents in {folder} are stale: made by another {name}, with weights {known[:12]}, not "
                f"{weights[:12]}; use that one or run ldm-data precompute again"
            )
        for part in parts:
            if not _same(reference.get(part), here.get(part)):
                raise UserError(
                    f"the latents in {folder} are stale: the {name} has the same weights but is built in "
                    f"another way: its {part} of the reference differs"
                )


def _same(stored: Tensor | None, found: Tensor | None) -> bool:
    if stored is None or found is None:
        return stored is found
    return stored.shape == found.shape and bool((stored - found).norm() <= TOLERANCE * stored.norm())
