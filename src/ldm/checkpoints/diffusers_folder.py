"""Folders of diffusers (`model_index.json`, a folder a component): read and written."""

import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.checkpoints import diffusers_config as words
from ldm.checkpoints.assemble import Source
from ldm.checkpoints.diffusers_scheduler import diffusion_nodes, scheduler_json
from ldm.checkpoints.families import check_channels, check_pipeline
from ldm.checkpoints.keymaps import DIFFUSERS
from ldm.checkpoints.names import theirs, vae_attention_name
from ldm.checkpoints.tensors import TensorFiles, read_json
from ldm.checkpoints.tokenizer_files import tokenizer_of, write_json, write_tokenizer
from ldm.utils.errors import UserError
from ldm.utils.files import replacing_folder

log = logging.getLogger(__name__)

FOLDERS = {"backbone": "unet", "autoencoder": "vae", "text_encoder": "text_encoder"}
INDEX = "model_index.json"
SINGLE = (".safetensors", ".ckpt", ".pt", ".bin")
LEVELS = 4  # of an autoencoder of Stable Diffusion: it divides height and width by 8


def is_diffusers_folder(path: Path) -> bool:
    """True for the folder of a diffusers pipeline."""
    return (path / INDEX).is_file()


def _stem(component: str, suffix: str) -> str:
    """File name without variant and suffix; transformers' differ by the format."""
    if component != "text_encoder":
        return "diffusion_pytorch_model"
    return "model" if suffix == "safetensors" else "pytorch_model"


def weights_of(folder: Path, component: str, variant: str | None) -> list[Path]:
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


def component_kind(folder: Path) -> str:
    """The class that the config of a component's folder names; "" if it names none."""
    path = folder / "config.json"
    return str(read_json(path).get("_class_name", "")) if path.is_file() else ""


def no_model_in(path: Path) -> str:
    """Description of a folder that holds no pipeline of diffusers, with what to give instead."""
    if kind := component_kind(path):
        above = (
            path.parent if is_diffusers_folder(path.parent) else "the folder of the pipeline that it is of"
        )
        return f"it holds a {kind} alone: give {above}"
    if (path / "adapter_config.json").is_file() or list(path.glob("pytorch_lora_weights.*")):
        return "it holds low-rank adapters: give it as lora="
    if list(path.glob("data.pkl")) or list(path.glob("*/data.pkl")):
        return "it is a checkpoint of torch that was unpacked: give the archive it was made from"
    if files := sorted(p.name for p in path.iterdir() if p.suffix in SINGLE):
        return f"it has no {INDEX}: give one of its files ({', '.join(files[:4])})"
    return f"it has no {INDEX}"


def folder_source(path: Path, stack: ExitStack, variant: str | None, given: Collection[str] = ()) -> Source:
    """Config, files and names of a folder of diffusers.

    Args:
        path: the folder.
        stack: keeps the files open.
        variant: of the weights, such as "fp16"; None: see `load_model`.
        given: components that come from elsewhere, and have no node unless the folder has them.

    Raises: FileNotFoundError; ValueError for what is foreign or missing.
    """
    check_pipeline(index := read_json(path / INDEX))
    present = _present(path, given)
    unet = read_json(path / "unet" / "config.json")
    backbone = words.backbone_node(unet)
    nodes = {"backbone": backbone}
    if "autoencoder" in present:
        nodes["autoencoder"] = words.autoencoder_node(read_json(path / "vae" / "config.json"))
        check_channels(backbone["in_channels"], nodes["autoencoder"]["latent_channels"])
    text = read_json(path / "text_encoder" / "config.json")
    tokens = tokenizer_of(path / "tokenizer", text["vocab_size"])
    nodes["text_encoder"] = words.text_encoder_node(text) | tokens
    diffusion, sampling = diffusion_nodes(_scheduler(path, index))
    sampling |= {"guidance_scale": words.READ_SCALE} if "guidance_dim" in backbone else {}
    files = {
        component: stack.enter_context(TensorFiles(weights_of(path / FOLDERS[component], component, variant)))
        for component in present
    }
    files["text_encoder"].rename(_text_name)
    if "autoencoder" in files:
        files["autoencoder"].rename(lambda name: vae_attention_name(name, DIFFUSERS))
    levels = len(nodes["autoencoder"]["channels"]) if "autoencoder" in nodes else LEVELS
    config = {
        **nodes,
        "diffusion": diffusion,
        "sampling": sampling,
        "image_size": words.image_size(unet.get("sample_size"), 2 ** (levels - 1)),
        "caption_dropout": 0.1,
    }
    return Source(path=path, config=config, files=files, names=_names)


def _present(path: Path, given: Collection[str]) -> list[str]:
    """The components whose folders are there.

    Raises: ValueError naming one that is missing.
    """
    present = [component for component, name in FOLDERS.items() if (path / name).is_dir()]
    for component, name in FOLDERS.items():
        if component not in present and component not in given:
            remedy = ": vae=FILE or FOLDER adds one" if component == "autoencoder" else ""
            there = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir())) or "none"
            raise UserError(f"{path} has no folder {name}, among those there ({there}){remedy}")
    return present


def _scheduler(path: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the scheduler, with the class that the index names where it names none."""
    config = read_json(path / "scheduler" / "scheduler_config.json")
    named = index.get("scheduler")
    kind = named[1] if isinstance(named, list) and len(named) == 2 else None
    return config if config.get("_class_name") or not kind else {**config, "_class_name": kind}


def _names(component: str, node: dict[str, Any], keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    return theirs(component, node, keys, DIFFUSERS)


def _text_name(name: str) -> str | None:
    """Names of transformers before and since version 5; None for what is no weight of the text tower."""
    name = name.removeprefix("text_model.")
    other = name.startswith(("vision_model.", "visual_projection.", "text_projection."))
    return None if other or name in ("embeddings.position_ids", "logit_scale") else name


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
    scheduler = scheduler_json(config["diffusion"], config["sampling"])
    names = {
        component: theirs(component, config[component], list(module.state_dict()), DIFFUSERS)
        for component, module in components.items()
    }
    with replacing_folder(path) as folder:
        for component, module in components.items():
            place = folder / FOLDERS[component]
            write_json(place / "config.json", configs[component])
            tensors = split(module.state_dict(), names[component])
            if component == "text_encoder":
                tensors = {f"text_model.{name}": value for name, value in tensors.items()}
            save_file(tensors, place / f"{_stem(component, 'safetensors')}.safetensors", {"format": "pt"})
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        write_tokenizer(folder / "tokenizer", config["text_encoder"])
        write_json(folder / INDEX, _index(config, scheduler["_class_name"]))


def split(state: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Tensors under the names of another format; query, key and value apart where they are apart there."""
    return {
        name: part.contiguous()
        for key, value in state.items()
        for name, part in zip(names[key], value.chunk(len(names[key])), strict=True)
    }


def _index(config: Mapping[str, Any], scheduler: str) -> dict[str, Any]:
    inpaints = config["backbone"]["in_channels"] > config["autoencoder"]["latent_channels"]
    return {
        "_class_name": "StableDiffusionInpaintPipeline" if inpaints else "StableDiffusionPipeline",
        "_diffusers_version": "0.32.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
