"""Folders of diffusers (`model_index.json`, a folder a component): read and written."""

import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.checkpoints import diffusers_config as words
from ldm.checkpoints.assemble import Source
from ldm.checkpoints.keymaps import DIFFUSERS, VAE_OLD_NAMES
from ldm.checkpoints.names import theirs
from ldm.checkpoints.tensors import TensorFiles, read_json
from ldm.models.tokenizer import CLIP_VOCABULARY, vocabulary
from ldm.utils.files import replacing_folder

log = logging.getLogger(__name__)

FOLDERS = {"backbone": "unet", "autoencoder": "vae", "text_encoder": "text_encoder"}
INDEX = "model_index.json"


def is_diffusers_folder(path: Path) -> bool:
    """True for the folder of a diffusers pipeline."""
    return (path / INDEX).is_file()


def _stem(component: str, suffix: str) -> str:
    """File name without variant and suffix; transformers' differ by the format."""
    if component != "text_encoder":
        return "diffusion_pytorch_model"
    return "model" if suffix == "safetensors" else "pytorch_model"


def _weights(folder: Path, component: str, variant: str | None) -> list[Path]:
    """The files of a component's weights: safetensors before .bin, whole before sharded, plain before fp16.

    Raises: FileNotFoundError naming what was looked for.
    """
    wanted = [variant] if variant else [None, "fp16", "non_ema"]
    for name in wanted:
        for suffix in ("safetensors", "bin"):
            stem = _stem(component, suffix)
            whole = folder / (f"{stem}.{name}.{suffix}" if name else f"{stem}.{suffix}")
            if whole.is_file():
                return [whole]
            for index in (f"{stem}.{suffix}.index.{name}.json", f"{stem}.{suffix}.index.json"):
                if (folder / index).is_file() and (name is None) == (index.count(".") == 3):
                    shards = sorted(set(read_json(folder / index).get("weight_map", {}).values()))
                    return [folder / Path(shard).name for shard in shards]
    kind = f"of the variant {variant!r} " if variant else ""
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "no such folder"
    raise FileNotFoundError(f"no weights {kind}in {folder}, where there is {there}")


def _pad_token(folder: Path) -> int | None:
    """The id of the tokenizer's padding; None if the tokenizer names none."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / file).is_file():
            token = read_json(folder / file).get("pad_token")
            token = token.get("content") if isinstance(token, Mapping) else token
            if isinstance(token, str) and token in (tokens := vocabulary()[0]):
                return tokens[token]
    return None


def folder_source(path: Path, stack: ExitStack, variant: str | None) -> Source:
    """Config, files and names of a folder of diffusers.

    Args:
        path: the folder.
        stack: keeps the files open.
        variant: of the weights, such as "fp16"; None: see `load_model`.

    Raises: FileNotFoundError; ValueError for options that our nets do not have.
    """
    unet = read_json(path / "unet" / "config.json")
    vae = words.autoencoder_node(read_json(path / "vae" / "config.json"))
    text = read_json(path / "text_encoder" / "config.json")
    diffusion, sampling = words.diffusion_nodes(read_json(path / "scheduler" / "scheduler_config.json"))
    downscale = 2 ** (len(vae["channels"]) - 1)
    config = {
        "autoencoder": vae,
        "text_encoder": words.text_encoder_node(text, _pad_token(path / "tokenizer")),
        "backbone": words.backbone_node(unet),
        "diffusion": diffusion,
        "sampling": sampling,
        "image_size": (unet.get("sample_size") or 64) * downscale,
        "caption_dropout": 0.1,
    }
    files = {
        component: stack.enter_context(TensorFiles(_weights(path / name, component, variant)))
        for component, name in FOLDERS.items()
    }
    files["text_encoder"].rename(_text_name)
    files["autoencoder"].rename(_vae_name)
    return Source(path=path, config=config, files=files, names=_names)


def _names(component: str, node: dict[str, Any], keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    return theirs(component, node, keys, DIFFUSERS)


def _text_name(name: str) -> str | None:
    """Names of transformers before and since version 5; the positions' numbers are no weights."""
    name = name.removeprefix("text_model.")
    return None if name == "embeddings.position_ids" or name.startswith("text_projection.") else name


def _vae_name(name: str) -> str:
    """Names of the middle attention before diffusers 0.18."""
    head, _, tail = name.rpartition(".")
    place, _, last = head.rpartition(".")
    if ".attentions." in place and last in VAE_OLD_NAMES:
        return f"{place}.{VAE_OLD_NAMES[last]}.{tail}"
    return name


def write_folder(path: Path, config: Mapping[str, Any], components: Mapping[str, nn.Module]) -> None:
    """Writes a pipeline that diffusers loads. The folder is filled under another name and then renamed.

    Args:
        path: the folder to be; it must not exist or be empty.
        config: of the model.
        components: its nets.

    Raises: ValueError if the model is not in Stable Diffusion's topology; nothing is written then.
    """
    downscale, size = 2 ** (len(config["autoencoder"]["channels"]) - 1), config["image_size"]
    configs = {
        "backbone": words.backbone_json(config["backbone"], size, downscale),
        "autoencoder": words.autoencoder_json(config["autoencoder"], size),
        "text_encoder": words.text_encoder_json(config["text_encoder"]),
    }
    scheduler = words.scheduler_json(config["diffusion"], config["sampling"])
    names = {
        component: theirs(component, config[component], list(module.state_dict()), DIFFUSERS)
        for component, module in components.items()
    }
    with replacing_folder(path) as folder:
        for component, module in components.items():
            place = folder / FOLDERS[component]
            _write_json(place / "config.json", configs[component])
            tensors = split(module.state_dict(), names[component])
            if component == "text_encoder":
                tensors = {f"text_model.{name}": value for name, value in tensors.items()}
            save_file(tensors, place / f"{_stem(component, 'safetensors')}.safetensors", {"format": "pt"})
        _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        _write_tokenizer(folder / "tokenizer", config["text_encoder"])
        _write_json(folder / INDEX, _index(config))


def split(state: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Tensors under the names of another format; query, key and value apart where they are apart there."""
    return {
        name: part.contiguous()
        for key, value in state.items()
        for name, part in zip(names[key], value.chunk(len(names[key])), strict=True)
    }


def _index(config: Mapping[str, Any]) -> dict[str, Any]:
    inpaints = config["backbone"]["in_channels"] > config["autoencoder"]["latent_channels"]
    return {
        "_class_name": "StableDiffusionInpaintPipeline" if inpaints else "StableDiffusionPipeline",
        "_diffusers_version": "0.32.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _write_tokenizer(folder: Path, node: Mapping[str, Any]) -> None:
    """CLIP's vocabulary and merges in the files that transformers reads."""
    tokens, merges = vocabulary()
    start, end = (next(token for token, i in tokens.items() if i == CLIP_VOCABULARY - k) for k in (2, 1))
    padding = next(token for token, i in tokens.items() if i == node["pad_token"])
    _write_json(folder / "vocab.json", tokens)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": padding}
    _write_json(folder / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": node["max_length"], **special}
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
