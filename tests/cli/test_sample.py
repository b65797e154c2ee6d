"""ldm-sample: mistakes, modes, replaying, sharing the work."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm import Text2ImagePipeline
from ldm.checkpoints import save_model
from ldm.checkpoints.diffusers_config import diffusion_node, sampling_node
from ldm.cli import sample
from ldm.cli.sample import main
from ldm.pipelines.shipped import shipped_model
from ldm.utils.construct import construct

UNCONDITIONAL = {
    "_target_": "ldm.models.unet.UNet",
    "in_channels": 3,
    "out_channels": 3,
    "channels": [4],
    "attention": ["none"],
    "num_heads": 1,
    "norm_groups": 2,
}
FAST = ["threads=1", "num_inference_steps=2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def recipe_of(path):
    with Image.open(path) as image:
        return json.loads(image.text["ldm"])


def test_existing_files_are_refused_before_anything_is_loaded(folder, capsys):
    Path("a-0001.png").touch()
    line = ["prompt=[x,y]", "output=a.png", "checkpoint=/no/such/file"]
    assert main(line) == 2
    assert "a-0001.png exists; choose another output or overwrite=true" in capsys.readouterr().err
    assert main([*line, "overwrite=true"]) == 2
    assert "/no/such/file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "prompt: give either prompt=TEXT"),
        (["prompt=x", "prompts=y"], "prompt: give either"),
        (["prompts=/no/such.txt"], "prompts: no file at /no/such.txt"),
        (["prompt=x", "output=a.jpg"], ".png"),
        (["prompt=x", "checkpoint=/no/such/file"], "/no/such/file"),
        (["prompt=x", "checkpoint=owner/absent"], "could not be had from the hub"),
        (["prompt=x", "guidence_scale=3"], "guidance_scale"),
        (["prompt=x", "device=tpu"], "device"),
        (["prompt=x", "dtype=fp8"], "dtype: must be one of"),
        (["prompt=x", "mode=video"], "mode"),
        (["prompt=x", "mode=img2img"], "image: needs a value"),
        (["prompt=x", "mode=img2img", "image=/no/such.png"], "image: no file at /no/such.png"),
        (["prompt=x", "clip_skip=1"], "clip_skip: must be 0"),
        (["prompt=x", "batch_size=0"], "batch_size: must be at least 1"),
        (["prompt=x", "negative_prompt=[a,b]"], "negative_prompt: must be one or 1, got 2"),
        (["prompt=x", "seed=null"], "seed: must be a whole number or a list of whole numbers, got None"),
        (["prompt=x", "seed=1.5"], "seed: must be a whole number or a list of whole numbers, got 1.5"),
        (["prompt=x", "seed=1e3"], "seed: must be a whole number or a list of whole numbers, got 1000.0"),
        (
            ["prompt=x", "seed=random"],
            "seed: must be a whole number or a list of whole numbers, got 'random'",
        ),
        (["prompt=x", "seed=-1"], "seed: must be in [0, 2^64), got -1"),
        (["prompt=x", "seed=0,1"], "seed: must be one value, got '0,1': seed=[0,1] is a list, and -m"),
        (["prompt=x", "seed=[0,1]"], "seed: must be one or 1, got 2"),
        (["prompt=null"], "prompt: give either"),
        (["prompt=[]"], "prompt: must be a text or a list of at least one text"),
        (["prompt=x", "checkpoint="], "checkpoint: must not be empty"),
        (["prompt=x", "checkpoint=[a,b]"], "[a,b]"),
        (["prompt=x", "lora=[a,b]", "lora_scale=[1,2,3]"], "lora_scale: must be one or 2, one for each file"),
        (["prompt=x", "lora_scale=high"], "lora_scale: must be a number or a list of numbers, got 'high'"),
        (["prompt=x", "num_inference_steps=2.5"], "num_inference_steps: must be a whole number or null"),
        (["prompt=x", "guidance_scale=[1,2]"], "guidance_scale: must be a number or null, got [1, 2]"),
        (["prompt=x", "mode=img2img", "image=a", "size=64"], "size: must be a list of whole numbers or null"),
        (["prompt=x", "overwrite=maybe"], "overwrite: must be true or false, got 'maybe'"),
        (["text=a cat, a dog"], 'text: write prompt="a cat, a dog"'),
        (["replay=/no/such.png"], "no image at /no/such.png"),
        (["prompt=x", "guidance=autoguidance"], "weak_checkpoint: guidance Autoguidance needs"),
        (["prompt=x", "weak_checkpoint=/no/such"], "/no/such"),
        (["prompt=x", "guidance=apgg"], "guidance"),
        (["prompt=x", "+guidance.phii=1"], "guidance: has settings"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, says, folder, capsys):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert says in lines[0]
    assert not list(folder.iterdir())


def test_an_image_is_made_again_bit_for_bit(folder):
    """From a batch of two, by a sampler that draws noise at each step; never over the original."""
    line = ["prompt=[pizza,rocket]", "seed=3", "scheduler=ddpm", "scale=2", *FAST]
    assert main(line) == 0
    first = Path("outputs/rocket-0001.png")
    assert main([f"replay={first}", "threads=1"]) == 2  # it is there
    assert main([f"replay={first}", "output=again.png", "threads=1"]) == 0
    assert Path("again.png").read_bytes() == first.read_bytes()
    recipe = recipe_of(first)
    assert (recipe["prompt"], recipe["seed"], recipe["number"]) == ("rocket", 3, 1)
    assert recipe["scheduler"]["_target_"] == "ldm.schedulers.ddpm.DDPM"
    assert len(recipe["sha256"]["checkpoint"]) == 64


@pytest.mark.parametrize(
    "arguments", [["guidance=pag"], ["guidance=autoguidance", "weak_checkpoint=weak.safetensors"]]
)
def test_guidance_is_part_of_the_recipe(arguments, folder, capsys):
    from ldm.pipelines.shipped import shipped_model

    with shipped_model() as model:
        Path("weak.safetensors").write_bytes(model.read_bytes())
    steps = ["threads=1", "num_inference_steps=2", "guidance_scale=2"]
    assert main(["prompt=pizza", "output=a.png", *arguments, *steps]) == 0
    recipe = recipe_of("a.png")
    assert recipe["net_evaluations"] == (6 if "pag" in arguments[0] else 4)
    assert recipe["guidance"]["_target_"].startswith("ldm.guidance.")
    assert main(["replay=a.png", "output=b.png", "threads=1"]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    Path("weak.safetensors").write_bytes(b"other")
    changed = main(["replay=a.png", "output=c.png", "threads=1"])
    assert changed == (0 if "pag" in arguments[0] else 2)


def test_an_image_from_an_image_is_made_again(folder):
    assert main(["prompt=pizza", "output=in.png", *FAST]) == 0
    edit = ["mode=img2img", "image=in.png", "strength=0.5", "prompt=rocket", "output=out.png", *FAST]
    assert main(edit) == 0
    assert main(["replay=out.png", "output=again.png", "threads=1"]) == 0
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()
    assert (pixels("out.png") != pixels("in.png")).any()
    Path("in.png").write_bytes(Path("out.png").read_bytes())
    assert main(["replay=out.png", "output=b.png", "threads=1"]) == 2
    assert not Path("b.png").exists()


def test_inpainting_leaves_the_rest_as_it_is(folder):
    assert main(["prompt=pizza", "output=in.png", *FAST]) == 0
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 8:40] = 255
    Image.fromarray(mask).save("mask.png")
    line = ["mode=inpaint", "image=in.png", "mask=mask.png", "prompt=rocket", "output=out.png", *FAST]
    assert main(line) == 0
    changed = (pixels("out.png") != pixels("in.png")).any(-1)
    assert not changed[mask == 0].any()
    assert changed[mask == 255].mean() > 0.5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "holds no recipe"),
        ("{", "cannot be read"),
        ('{"kind": "text2img"}', "holds no recipe"),
        (
            '{"kind": "text2img", "prompt": "x", "negative_prompt": null, "seed": 0, "number": 0,'
            '"sha256": {}, "draws": 2,'
            '"checkpoint": null, "variant": null, "prediction": null, "ema": true, "dtype": "fp32",'
            '"vae_slicing": false,'
            '"vae_tiling": false, "scheduler": {"_target_": "os.system", "command": "touch owned"}}',
            "is not allowed; targets start with",
        ),
    ],
)
def test_a_recipe_runs_nothing_and_is_checked(text, says, folder, capsys):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if text is not None:
        info.add_itxt("ldm", text)
    Image.new("RGB", (8, 8)).save("a.png", pnginfo=info)
    assert main(["replay=a.png", "output=b.png", "threads=1"]) == 2
    assert says in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["a.png"]


def test_an_unconditional_model_takes_a_number_of_images(folder, capsys):
    config = {
        "autoencoder": {"_target_": "ldm.models.identity.IdentityAutoencoder"},
        "text_encoder": {"_target_": "ldm.models.text_encoder.NullTextEncoder"},
        "backbone": UNCONDITIONAL,
        "diffusion": diffusion_node({"_target_": "ldm.diffusion.schedule.cosine"}, "Epsilon"),
        "sampling": sampling_node({"_target_": "ldm.diffusion.timesteps.trailing", "_partial_": True}, 1.0),
        "image_size": 8,
    }
    nets = {name: construct(config[name], name) for name in ("autoencoder", "text_encoder", "backbone")}
    save_model("m.safetensors", nets, config)
    line = ["checkpoint=m.safetensors", "seed=4", *FAST]
    assert main([*line, "num_images=3", "output=a.png"]) == 0
    assert main([*line, "num_images=1", "output=b.png"]) == 0
    assert sorted(path.name for path in folder.glob("*.png")) == [
        "a-0000.png",
        "a-0001.png",
        "a-0002.png",
        "b.png",
    ]
    assert (pixels("a-0000.png") == pixels("b.png")).all()
    assert main(["replay=a-0001.png", "output=c.png", "threads=1"]) == 0
    assert (pixels("c.png") == pixels("a-0001.png")).all()
    capsys.readouterr()
    for wrong, says in (
        ([], "prompt: give either"),
        (["num_images=0"], "num_images: must be at least 1, got 0"),
        (["prompt=x", "num_images=2"], "prompt: give either"),
        (["prompt=x"], "prompt: must be left out for an unconditional model (give num_images), got 'x'"),
    ):
        assert main([*line, *wrong, "output=d.png"]) == 2
        assert says in capsys.readouterr().err


def test_ranks_share_the_prompts_of_a_file(folder, monkeypatch):
    """Two processes write what one writes, each its own part."""
    Path("p.txt").write_text("pizza\nrocket\npenguin\napple\nrose\n")
    line = ["prompts=p.txt", "batch_size=2", *FAST]
    assert main([*line, "output=one"]) == 0
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main([*line, "output=two"]) == 0
        assert len(list(Path("two").iterdir())) == (3, 5)[rank]
    for path in Path("one").iterdir():
        assert (Path("two") / path.name).read_bytes() == path.read_bytes()


def test_a_checkpoint_that_has_changed_is_not_replayed(folder, capsys):
    with shipped_model() as path:
        Path("m.safetensors").write_bytes(path.read_bytes())
    assert main(["checkpoint=m.safetensors", "prompt=pizza", "output=a.png", *FAST]) == 0
    from ldm.checkpoints import load_model, save_model

    loaded = load_model("m.safetensors", dtype=torch.bfloat16)
    save_model("m.safetensors", loaded.components, loaded.config)
    assert main(["replay=a.png", "output=b.png", "threads=1"]) == 2
    assert "the checkpoint is missing or has changed" in capsys.readouterr().err


def test_a_prompt_of_several_kinds_of_devices_is_told_apart(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert sample.own_device("auto") == "cuda:1"
    assert sample.own_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert sample.own_device("auto") == "auto"


TEXTS = ["a cat, it's “(red:1.2)” [sitting]", "two\nlines = ${HOME} 🎉 "]


def test_a_prompt_is_what_the_shell_hands_over(folder):
    for i, text in enumerate(TEXTS):
        words = [
            f"prompt={text}",
            f"negative_prompt={text[::-1]}",
            f"output={i}, it's.png",
            "num_inference_steps=1",
        ]
        assert main([*words, "threads=1"]) == 0
        recipe = recipe_of(f"{i}, it's.png")
        assert (recipe["prompt"], recipe["negative_prompt"]) == (text, text[::-1])


def test_the_command_line_and_python_make_the_same_image(folder):
    words = ["prompt=[pizza,rocket]", f"seed={2**40 + 7}", "guidance_scale=2", "output=a.png"]
    assert main([*words, *FAST]) == 0
    pipeline = Text2ImagePipeline.from_pretrained()
    images = pipeline(
        prompt=["pizza", "rocket"], seed=np.uint64(2**40 + 7), guidance_scale=2.0, num_inference_steps=2
    )
    for i, image in enumerate(images):
        assert (pixels(f"a-{i:04d}.png") == np.asarray(image).astype(int)).all()


def test_a_replay_uses_what_is_typed_beside_it(folder, capsys):
    """Another seed and prompt make the image that they make without the replay; a moved model is found."""
    with shipped_model() as path:
        Path("m.safetensors").write_bytes(path.read_bytes())
    model = ["checkpoint=m.safetensors", *FAST]
    assert main(["prompt=pizza", "seed=4", "output=a.png", *model]) == 0
    assert main(["prompt=it's a rocket, red", "seed=0", "output=b.png", *model]) == 0
    typed = ["prompt=it's a rocket, red", "seed=0", "threads=1"]
    assert main(["replay=a.png", *typed, "output=c.png"]) == 0
    assert Path("c.png").read_bytes() == Path("b.png").read_bytes()
    Path("m.safetensors").rename("it's moved.safetensors")
    assert main(["replay=a.png", "threads=1", "output=d.png"]) == 2
    assert "checkpoint: the checkpoint is missing or has changed" in capsys.readouterr().err
    moved = ["checkpoint=it's moved.safetensors", "threads=1"]
    assert main(["replay=a.png", *moved, "output=d.png"]) == 0
    assert (pixels("d.png") == pixels("a.png")).all()
    Path("other.safetensors").write_bytes(b"other")
    assert main(["replay=a.png", "checkpoint=other.safetensors", "threads=1", "output=e.png"]) == 2
    assert main(["replay=a.png", "num_images_per_prompt=2", "output=e.png"]) == 2
    assert "num_images_per_prompt: must be left out with replay=" in capsys.readouterr().err
    assert not Path("e.png").exists()


def test_a_sweep_has_hydras_grammar(folder):
    words = ["-m", "prompt='a, b',it is", "seed=1", "hydra.sweep.dir=sweep", "num_inference_steps=1"]
    assert main([*words, "threads=1"]) == 0
    assert recipe_of("sweep/0/a-b.png")["prompt"] == "a, b"
    assert recipe_of("sweep/1/it-is.png")["prompt"] == "it is"
