"""The frozen nets of a checkpoint that encode a data set ahead of time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ldm.checkpoints.loader import load_model
from ldm.data.latents.encode import Encoder
from ldm.models.protocols import TextEncoder
from ldm.utils.device import pick_device
from ldm.utils.errors import UserError


def frozen_encoder(
    checkpoint: str | Path,
    text_encoder: Callable[[], TextEncoder] | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    local_rank: int = 0,
    dtype: str = "fp16",
    precision: str = "fp32",
) -> Encoder:
    """The autoencoder of a checkpoint and a text encoder, in evaluation mode on this rank's device.

    Args:
        checkpoint: a file or folder that `ldm.checkpoints.load_model` reads and that has an autoencoder.
        text_encoder: makes another one than the checkpoint's; None: the checkpoint's, unless it is trained
            with the backbone or makes no tokens, in which case captions are kept as they are.
        seed: of the random weights of `text_encoder`, those of a run with this seed.
        device: auto, cpu, cuda or mps.
        local_rank: of this process, which picks one of the machine's GPUs.
        dtype: of the stored tensors: fp16, bf16 or fp32.
        precision: fp32 or bf16, in which the nets compute.

    Raises: UserError if the checkpoint has no autoencoder.
    """
    nets = load_model(Path(checkpoint)).components
    if "autoencoder" not in nets:
        raise UserError(f"checkpoint: {checkpoint} has no autoencoder")
    text: Any = _kept(nets.get("text_encoder")) if text_encoder is None else _seeded(text_encoder, seed)
    place = pick_device(device)
    if place == torch.device("cuda"):
        place = torch.device("cuda", local_rank % torch.cuda.device_count())
    for net in (nets["autoencoder"], text):
        if net is not None:
            net.requires_grad_(False).eval().to(place)
    return Encoder(
        autoencoder=nets["autoencoder"], text_encoder=text, device=place, dtype=dtype, precision=precision
    )


def _kept(text_encoder: Any) -> Any:
    """A checkpoint's text encoder, None if it changes in training or makes no tokens."""
    frozen = text_encoder is not None and not text_encoder.trainable and text_encoder.max_length is not None
    return text_encoder if frozen else None


def _seeded(text_encoder: Callable[[], TextEncoder], seed: int) -> TextEncoder:
    """A text encoder whose random weights are a function of the seed; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return text_encoder()
