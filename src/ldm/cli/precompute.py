"""ldm-data precompute: image shards encoded once, on any number of ranks."""

import shlex
from pathlib import Path
from typing import Any

from ldm.utils.construct import construct
from ldm.utils.distributed import launched
from ldm.utils.errors import UserError


def precompute(config: dict[str, Any]) -> None:
    """Encodes the shards of data=laion and says how to train on the latents."""
    from ldm.data.laion import LaionData
    from ldm.data.latents.frozen import frozen_encoder
    from ldm.data.latents.precompute import finish, precompute

    output, checkpoint = config["output"], config["checkpoint"]
    if output is None:
        raise UserError("output: needs a folder for the latents (output=FOLDER)")
    if "://" in output:
        raise UserError(f"output: must be a local folder, which may be copied later, got {output}")
    if checkpoint is None:
        raise UserError("checkpoint: needs a model that has the autoencoder (checkpoint=...)")
    data, (rank, world, local) = construct(config["data"], "data"), launched()
    if not isinstance(data, LaionData):
        raise UserError("data: only tar shards are encoded ahead of time (data=laion data.shards=...)")
    folder, node = Path(output), config.get("text_encoder")
    encoder = frozen_encoder(
        checkpoint,
        None if node is None else construct(node, "text_encoder"),
        local_rank=local,
        **{name: config[name] for name in ("seed", "device", "dtype", "precision")},
    )
    made = precompute(data, encoder, folder, batch_size=config["batch_size"], rank=rank, world=world)
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
        words = ["data=latents", f"data.folder={folder}", size, f"first_stage.checkpoint={checkpoint}"]
        print(f"train on them, with the same text encoder: {shlex.join(words)}")
