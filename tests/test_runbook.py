"""The commands of experiments/sd_scale/README.md run in order, as written but in miniature."""

import io
import json
import re
import shlex
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ldm.cli import convert, data, plan, sample, train
from ldm.data.shards.index import FIELDS

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
MAINS = {
    "ldm-train": train.main,
    "ldm-sample": sample.main,
    "ldm-data": data.main,
    "ldm-convert": convert.main,
    "ldm-plan": plan.main,
}
ROOT = Path(__file__).parents[1]
RUNBOOK = (ROOT / "experiments" / "sd_scale" / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", RUNBOOK, re.S)
LINES = [
    shlex.split(line, comments=True)
    for language, text in BLOCKS
    if language == "sh"
    for line in text.splitlines()
]
SMALL_AUTOENCODER = ["autoencoder.channels=[32, 32, 32, 32]", "autoencoder.layers_per_block=1"]
SMALL_TEXT_ENCODER = [
    "text_encoder.width=32",
    "text_encoder.layers=1",
    "text_encoder.num_heads=1",
    "text_encoder.pretrained=null",
]
SMALL_NETS = [
    *SMALL_TEXT_ENCODER,
    "backbone.channels=[32, 64]",
    "backbone.attention=[cross, none]",
    "backbone.layers_per_block=1",
    "backbone.context_dim=32",
    *SMALL_AUTOENCODER,
]
SMALL_RUN = [
    "trainer=cpu",
    "trainer.max_steps=2",
    "threads=1",
    "data.batch_size=2",
    "data.num_workers=0",
    "sampling.num_inference_steps=1",
    "prompts=[a cat]",
    "~callbacks.validation",
]
SMALL_FIRST = [  # the discriminator from the second step on; VGG-16 of random weights
    "first_stage.max_steps=2",
    "first_stage.task.adversarial_start=1",
    "first_stage.task.discriminator.width=8",
    "first_stage.task.perceptual.weights=null",
]


def shards(folder):
    """Two shards in img2dataset's format, of images that were larger on the web."""
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(4):
                key, image = f"{shard:05d}{i:04d}", io.BytesIO()
                Image.new("RGB", (80, 72), (60 * i, 100 * shard, 0)).save(image, "JPEG")
                said = {"key": key, "status": "success", "original_width": 800, "original_height": 720}
                said |= {"width": 80, "height": 72, "aesthetic": 5.5, "pwatermark": 0.1, "punsafe": 0.0}
                parts = {"jpg": image.getvalue(), "json": json.dumps(said).encode(), "txt": b"a red wall"}
                for name, value in parts.items():
                    info = tarfile.TarInfo(f"{key}.{name}")
                    info.size = len(value)
                    tar.addfile(info, io.BytesIO(value))


def photos(folder):
    folder.mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (70, 64), "grey").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("my cat")


def in_miniature(command, arguments):
    """The arguments for tiny nets on the CPU: what is said of GPUs is replaced, the rest stays as written."""
    gpus = ("trainer=", "trainer.devices=", "trainer.strategy=", "trainer.accumulate_", "trainer.max_steps=")
    kept = [a for a in arguments if not a.startswith(gpus)]
    if command == "ldm-train":
        size = "data.image_size=64" if "experiment=sd_scale" not in arguments else "data.image_size=32"
        first = "experiment=sd_autoencoder" in arguments
        nets = [*SMALL_AUTOENCODER, *SMALL_FIRST] if first else SMALL_NETS
        accumulate = 2 if any("sd_scale" in a for a in arguments) else 1
        fast = ["optimizer.lr=0.1"] if "adapters=lora" in arguments else []  # updates that are no rounding
        return [*kept, *SMALL_RUN, *nets, size, f"trainer.accumulate_grad_batches={accumulate}", *fast]
    if command == "ldm-sample":
        return [*kept, "num_inference_steps=1", "height=64", "width=64", "threads=1"]
    if command == "ldm-plan":
        small = ["data.batch_size=16", "data.image_size=32", "trainer.accumulate_grad_batches=1"]
        return [*kept, *SMALL_NETS, *small, "threads=1"]
    if "precompute" in arguments:
        own = ("data.image_size=", "data.num_workers=", "threads=")
        kept = [a for a in kept if not a.startswith(own)]
        return [*kept, *SMALL_TEXT_ENCODER, "data.image_size=32", "data.num_workers=0", "threads=1"]
    if "bench" in arguments:
        kept = [a for a in kept if not a.startswith("data.image_size")]
        return [*kept, "data.image_size=16", "data.batch_size=2", "seconds=0.01"]
    return kept


def test_the_download_is_one_command_that_keeps_what_the_filters_read():
    """img2dataset itself is not installed."""
    command, *arguments = LINES[0]
    assert command == "img2dataset"
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert all(name.startswith("--") for name in options)
    assert options["--output_format"] == "webdataset"
    assert options["--output_folder"] == "shards"
    known = {name for names in FIELDS.values() for name in names}
    assert set(json.loads(options["--save_additional_columns"])) <= known


def test_every_command_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards(tmp_path / "shards")
    photos(tmp_path / "photos")
    Path("prompts.txt").write_text("a cat\na dog\n")
    assert len(LINES) >= 15
    for command, *arguments in LINES[1:]:
        if command == "sbatch":  # what the script starts
            (script,) = [i for i, word in enumerate(arguments) if word.endswith(".sbatch")]
            assert (ROOT / arguments[script]).is_file()
            command, arguments = "ldm-train", arguments[script + 1 :]
        assert MAINS[command](in_miniature(command, arguments)) == 0, (command, arguments)
        if command == "ldm-convert" and "output=stable-diffusion" in arguments:
            as_if_trained(Path("stable-diffusion/unet/diffusion_pytorch_model.safetensors"))

    assert {p.name for p in Path("runs").iterdir()} == {
        *("sd_autoencoder", "sd_scale", "sd_scale_latents", "sd_scale_512", "photos", "photos_lora")
    }
    for folder in ("stable-diffusion", "stable-diffusion-photos"):
        assert (Path(folder) / "model_index.json").is_file()
    for file in ("stable-diffusion.safetensors", "earlier.safetensors", "merged.safetensors", "newest.png"):
        assert Path(file).is_file()
    assert len(list(Path("samples").iterdir())) == 2
    assert list(Path("outputs").rglob("sweep.png"))
    run_code()


def as_if_trained(path):
    """Fills layers that begin at zero and are still so after two steps: no adapter would get a gradient."""
    generator = torch.Generator().manual_seed(0)
    state = {k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in load_file(path).items()}
    save_file(state, path)


def run_code():
    """The blocks of Python, on the CPU and with small images: the same file of adapters here and there."""
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert len(blocks) == 2
    for code in blocks:
        code = (
            code.replace('.to("cuda")', '.to("cpu", dtype)')
            .replace('"cuda"', '"cpu"')
            .replace('a photo of my cat"', 'a photo of my cat", **small')
        )
        if "diffusers" in code:
            pytest.importorskip("peft")
        small = {"num_inference_steps": 1, "height": 64, "width": 64}
        exec(compile(code, "README.md", "exec"), {"small": small, "dtype": torch.float32})
    assert Path("cat-again.png").read_bytes()[:4] == Path("cat-there.png").read_bytes()[:4] == b"\x89PNG"
