"""Adapters, learned words and weights in prompts on the command line, and in the recipe."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ldm import Text2ImagePipeline
from ldm.checkpoints.converter import write_checkpoint
from ldm.checkpoints.lora import save_lora
from ldm.cli import convert
from ldm.cli.sample import main
from ldm.models.lora import LoRA

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
FAST = ["num_inference_steps=2", "threads=1", "height=64", "width=64", "checkpoint=base"]
ADDED = ["lora=[a.safetensors,b.safetensors]", "lora_scale=[0.8,-2]", "embeddings=[word.pt]"]


@pytest.fixture(scope="module")
def files(stable_diffusion, tmp_path_factory):
    """A model, two files of adapters and a learned word."""
    folder = tmp_path_factory.mktemp("files")
    model = stable_diffusion("sd1", 0, f8=True)
    write_checkpoint(model, folder / "base", "diffusers")
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        lora = LoRA(model.components["backbone"], rank=2, alpha=1.0, targets=["to_q", "to_v"])
        for p in lora.parameters():
            torch.nn.init.normal_(p, std=0.3)
        save_lora(folder / f"{name}.safetensors", lora.updates(), model.config["backbone"])
    vectors = torch.randn(2, model.config["text_encoder"]["width"])
    torch.save({"string_to_param": {"*": vectors}, "name": "*"}, folder / "word.pt")
    save_file({"unet.absent.lora_A.weight": vectors}, folder / "bad.safetensors")
    (folder / "prompts.txt").write_text("a (word:1.5) [heart]", encoding="utf-8")
    return folder


@pytest.fixture
def folder(files, tmp_path, monkeypatch):
    """An empty folder with links to the files."""
    for file in files.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe_of(path):
    return json.loads(Image.open(path).info["ldm"])


def test_images_with_adapters_words_and_weights_are_those_of_python_and_made_again(folder):
    assert main(["prompts=prompts.txt", "output=out", *ADDED, *FAST]) == 0
    (made,) = Path("out").glob("*.png")
    recipe = recipe_of(made)
    assert (recipe["prompt_weights"], recipe["long_prompts"]) == (True, "chunks")  # the model's, written down
    assert {"lora", "embeddings"} <= recipe["sha256"].keys()
    assert recipe["lora_scale"] == [0.8, -2.0]
    pipeline = Text2ImagePipeline.from_pretrained(
        "base", lora=["a.safetensors", "b.safetensors"], lora_scale=[0.8, -2.0]
    )
    pipeline.load_textual_inversion("word.pt")
    image = pipeline("a (word:1.5) [heart]", num_inference_steps=2, height=64, width=64)
    assert image.tobytes() == Image.open(made).tobytes()
    assert main([f"replay={made}", "output=again.png", "threads=1"]) == 0
    assert Path("again.png").read_bytes() == made.read_bytes()
    plain = ["prompt_weights=false", "long_prompts=cut"]
    assert main(["prompts=prompts.txt", "output=text", *ADDED, *FAST, *plain]) == 0
    (text,) = Path("text").glob("*.png")
    assert Image.open(text).tobytes() != image.tobytes()
    Path("word.pt").unlink()
    Path("word.pt").write_bytes(Path("a.safetensors").read_bytes())
    assert main([f"replay={made}", "output=other.png", "threads=1"]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lora=bad.safetensors"], "belong to no layer"),
        (
            ["lora=[a.safetensors,b.safetensors]", "lora_scale=[1]"],
            "lora_scale: must be one or 2, one for",
        ),
        (["lora=word.pt"], "holds no adapter"),
        (["embeddings=a.safetensors"], "file of adapters"),
        (["embeddings=absent.pt"], "absent.pt"),
        (["long_prompts=all"], "long_prompts: must be one of"),
    ],
)
def test_a_mistake_is_one_line(arguments, says, folder, capsys):
    assert main(["prompt=heart", "output=a.png", *arguments, *FAST]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line


def test_several_adapters_are_merged_into_a_converted_checkpoint(folder):
    arguments = ["lora=[a.safetensors,b.safetensors]", "lora_scale=[0.8,-2]"]
    assert convert.main(["input=base", "output=merged.safetensors", *arguments]) == 0
    merged = Text2ImagePipeline.from_pretrained("merged.safetensors").backbone.state_dict()
    loaded = Text2ImagePipeline.from_pretrained("base").load_lora(
        ["a.safetensors", "b.safetensors"], [0.8, -2.0]
    )
    for key, value in loaded.backbone.state_dict().items():
        assert torch.equal(merged[key], value)
