"""ldm-data precompute: image shards encoded once, on any number of ranks."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ldm.cli.config import build
from ldm.utils.distributed import launched
from ldm.utils.errors import UserError


def encoder_of(cfg: DictConfig, local: int) -> Any:
    """The frozen nets that the config names, on this rank's device."""
    import torch

    from ldm.checkpoints.loader import load_model
    from ldm.data.latents.encode import Encoder
    from ldm.utils.device import pick_device

    if cfg.checkpoint is None:
        raise UserError("checkpoint: needs a model that has the autoencoder (checkpoint=...)")
    nets = load_model(Path(cfg.checkpoint)).components
    if "autoencoder" not in nets:
        raise UserError(f"checkpoint: {cfg.checkpoint} has no autoencoder")
    text: Any = nets.get("text_encoder")
    if cfg.get("text_encoder") is not None:
        with torch.random.fork_rng(devices=[]):  # random weights are those of a run with this seed
            torch.manual_seed(cfg.seed)
            text = build(cfg.text_encoder)()
    elif text is not None and (text.trainable or text.max_length is None):
        text = None  # it learns, or says nothing: the captions are kept
    device = pick_device(cfg.device)
    if device == torch.device("cuda"):
        device = torch.device("cuda", local % torch.cuda.device_count())
    for net in (nets["autoencoder"], text):
        if net is not None:
            net.requires_grad_(False).eval().to(device)
    return Encoder(
        autoencoder=nets["autoencoder"],
        text_encoder=text,
        device=device,
        dtype=cfg.dtype,
        precision=cfg.precision,
    )


def precompute(cfg: DictConfig) -> None:
    """Encodes the shards of data=laion and says how to train on the latents."""
    from ldm.data.laion import LaionData
    from ldm.data.latents.precompute import finish, precompute

    if cfg.output is None:
        raise UserError("output: needs a folder for the latents (output=FOLDER)")
    if "://" in cfg.output:
        raise UserError(f"output: must be a local folder, which may be copied later, got {cfg.output}")
    data, (rank, world, local) = build(cfg.data), launched()
    if not isinstance(data, LaionData):
        raise UserError("data: only tar shards are encoded ahead of time (data=laion data.shards=...)")
    folder, encoder = Path(cfg.output), encoder_of(cfg, local)
    made = precompute(data, encoder, folder, batch_size=cfg.batch_size, rank=rank, world=world)
    print(f"{made} of {len(data.index.shards)} shards made here, in {folder}")
    for cause, number in data.bad.items():
        print(f"{number:,} cannot be used: {cause}")
    whole = finish(folder)
    if whole is not None:
        text = "text embeddings" if encoder.text_encoder is not None else "captions"
        print(f"{whole:,} latents with {text}, complete")
        size = f"data.image_size={data.image_size}"
        if data.bucketed:
            size = f"data.buckets={[list(size) for size in data.sizes]}".replace(" ", "")
        where = f"data=latents data.folder={folder} {size} first_stage.checkpoint={cfg.checkpoint}"
        print(f"train on them, with the same text encoder: {where}")
