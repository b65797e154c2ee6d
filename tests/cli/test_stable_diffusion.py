"""`experiment=sd15` in miniature: a trained autoencoder in, a Stable Diffusion folder for diffusers out."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from ldm.checkpoints.converter import write_checkpoint
from ldm.checkpoints.loader import load_model
from ldm.cli import convert, train

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
]
SMALL = [
    "trainer=cpu",
    "trainer.max_steps=2",
    "threads=1",
    "data.image_size=64",
    "data.batch_size=2",
    "autoencoder.channels=[32, 32, 32, 64]",
    "autoencoder.layers_per_block=1",
    "text_encoder.width=32",
    "text_encoder.layers=2",
    "text_encoder.num_heads=2",
    "text_encoder.pretrained=null",
    "backbone.channels=[32, 64]",
    "backbone.attention=[cross, none]",
    "backbone.layers_per_block=1",
    "backbone.num_heads=4",
    "backbone.context_dim=32",
    "sampling.num_inference_steps=2",
]


@pytest.mark.parametrize(("experiment", "predicts"), [("sd15", "epsilon"), ("sd2_v", "v_prediction")])
def test_what_is_trained_here_is_a_folder_for_diffusers(experiment, predicts, stable_diffusion, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (80, 70), name).save(images / f"{name}.png")
        (images / f"{name}.txt").write_text(f"a {name} wall")
    donor = stable_diffusion("sd1", 0, f8=True)
    write_checkpoint(donor, tmp_path / "donor", "diffusers")
    heads = ["backbone.num_heads=[1, 2]"] if experiment == "sd2_v" else []  # of 32 channels, as in 2.x
    paths = [f"data.root={images}", f"first_stage.checkpoint={tmp_path}/donor"]
    run = [f"experiment={experiment}", f"hydra.run.dir={tmp_path}/run"]
    assert train.main([*run, *SMALL, *heads, *paths]) == 0
    made = tmp_path / "run" / "model.safetensors"
    assert convert.main([f"input={made}", f"output={tmp_path}/out", "format=diffusers"]) == 0

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None)
    assert pipeline.scheduler.config.prediction_type == predicts
    ours = load_model(made).components["autoencoder"]
    theirs = donor.components["autoencoder"].half().float()  # files of runs are float16
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key].float(), value)
    assert sum(p.numel() for p in pipeline.unet.parameters()) == sum(
        p.numel() for p in load_model(made).components["backbone"].parameters()
    )
