"""Files of a finished model: weights or adapters, and the config that is stored with them."""

from pathlib import Path
from typing import Any, cast

import torch

from ldm.checkpoints.lora import FILE, save_lora
from ldm.checkpoints.native import save_model
from ldm.models.lora import LoRA
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.utils.distributed import is_main


def model_config(config: dict[str, Any], autoencoder: dict[str, Any]) -> dict[str, Any]:
    """The config that is stored with a model: everything that is needed to sample from it.

    Args:
        config: of the run.
        autoencoder: node of the first stage, with the scaling of its latents.
    """
    stored = {
        "autoencoder": autoencoder,
        "text_encoder": complete(config["text_encoder"]),
        "backbone": complete(config["backbone"]),
        "diffusion": complete(config["diffusion"]),
        "sampling": complete(config["sampling"]),
        "image_size": config["data"]["image_size"],
        "caption_dropout": config["task"]["caption_dropout"],
        "training": {
            "name": config["name"],
            "seed": config["seed"],
            "steps": config["trainer"]["max_steps"],
        },
    }
    if config.get("adapters") is not None:
        stored["adapters"] = complete(config["adapters"])
    return stored


def complete(node: dict[str, Any]) -> dict[str, Any]:
    """A node of an object, not of a call that waits for arguments."""
    return {key: value for key, value in node.items() if key != "_partial_"}


def save_trained(
    module: LatentDiffusion, stored: dict[str, Any], init_checkpoint: str | None, directory: Path
) -> str:
    """Writes the model, or the adapters, that a run has trained; a collective operation.

    Args:
        module: after the training.
        stored: config of the model.
        init_checkpoint: the model that adapters are of.
        directory: of the run.

    Returns: the arguments by which `ldm-sample` loads it.
    """
    if "adapters" in stored:
        path = directory / FILE
        if is_main():
            save_lora(path, cast(LoRA, module.ema["backbone"]).updates(), stored["backbone"])
        return f"checkpoint={init_checkpoint} lora={path}"
    path, components = directory / "model.safetensors", module.components()
    if is_main():
        save_model(path, components, stored, dtype=torch.float16)
    return f"checkpoint={path}"
