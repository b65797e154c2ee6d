"""`init_checkpoint=` and `adapters=lora` in miniature: a folder of diffusers in, what diffusers loads out."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from ldm.checkpoints.converter import write_checkpoint
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.lora import FILE
from ldm.cli import convert, sample, train
from ldm.diffusion import random
from ldm.diffusion.conditioning import Conditioning
from ldm.guidance import drop_captions
from ldm.training.latent_diffusion import LatentDiffusion

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SMALL = [
    "experiment=sd15",
    "trainer=cpu",
    "trainer.log_every_n_steps=1",
    "threads=1",
    "data.image_size=64",
    "data.batch_size=3",
    "sampling.num_inference_steps=1",
    "prompts=[a cat]",
    "~callbacks.validation",
    "time_sampling.discrete=true",
]


@pytest.fixture(scope="module")
def folder(stable_diffusion, tmp_path_factory):
    """A small model as a folder of diffusers, and a folder of captioned images."""
    home = tmp_path_factory.mktemp("fine_tuning")
    write_checkpoint(stable_diffusion("sd1", 4, f8=True), home / "base", "diffusers")
    (home / "images").mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (80, 70), name).save(home / "images" / f"{name}.png")
        (home / "images" / f"{name}.txt").write_text(f"a {name} wall")
    return home


@pytest.fixture(scope="module")
def nets(stable_diffusion):
    """Overrides by which the config has the nets of that model."""
    config = stable_diffusion("sd1", 4, f8=True).config
    return [
        f"{name}.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for name in ("text_encoder", "backbone")
        for key, value in config[name].items()
        if key != "_target_"
    ]


def run(folder, nets, name, *more):
    paths = [f"data.root={folder}/images", f"init_checkpoint={folder}/base", f"hydra.run.dir={folder}/{name}"]
    return train.main([*SMALL, *nets, *paths, *more])


LORA = ["adapters=lora", "adapters.alpha=16.0", "optimizer.lr=0.05"]


@pytest.fixture(scope="module")
def adapted(folder, nets):
    """A run that trained adapters for three steps."""
    assert run(folder, nets, "lora", "trainer.max_steps=3", *LORA) == 0
    return folder / "lora"


def state(run):
    return torch.load(run / "checkpoints/step_00000003/state.ckpt", weights_only=True)["state_dict"]


@torch.no_grad()
def loss_of_diffusers(pipeline, module, batch):
    """What diffusers' nets and noise schedule make of the batch, with the run's draws."""
    key, visit = batch["key"], batch["visit"]
    posterior = pipeline.vae.encode(batch["image"]).latent_dist
    noise = random.normal(module.seed, "posterior", key, visit, posterior.mean.shape[1:])
    x0 = (posterior.mean + posterior.std * noise) * pipeline.vae.config.scaling_factor
    u = random.uniform(module.seed, "caption_dropout", key, visit)
    captions = drop_captions(batch["caption"], module.encoder.caption_dropout, u)
    settings = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    ids = pipeline.tokenizer(captions, max_length=pipeline.tokenizer.model_max_length, **settings).input_ids
    tokens = pipeline.text_encoder(ids).last_hidden_state
    noise = random.normal(module.seed, "noise", key, visit, x0.shape[1:])
    t = module.times(key, visit).long()
    noisy = DDPMScheduler.from_config(pipeline.scheduler.config).add_noise(x0, noise, t)
    out = pipeline.unet(noisy, t, encoder_hidden_states=tokens).sample
    return float((out - noise).square().mean())


def test_the_first_loss_is_that_of_diffusers_and_the_end_a_folder_for_it(folder, nets, monkeypatch):
    seen = []
    step = LatentDiffusion.training_step

    def spy(self, batch, index):
        out = step(self, batch, index)
        seen.append((self, batch, float(out["loss"].detach())))
        return out

    monkeypatch.setattr(LatentDiffusion, "training_step", spy)
    assert run(folder, nets, "whole", "trainer.max_steps=2") == 0
    base = StableDiffusionPipeline.from_pretrained(folder / "base", safety_checker=None)
    module, batch, loss = seen[0]
    assert loss == pytest.approx(loss_of_diffusers(base, module, batch), rel=1e-5)

    made = folder / "whole" / "model.safetensors"
    assert convert.main([f"input={made}", f"output={folder}/out", "format=diffusers"]) == 0
    after = StableDiffusionPipeline.from_pretrained(folder / "out", safety_checker=None)
    for name, same in (("vae", True), ("text_encoder", True), ("unet", False)):
        old, new = (getattr(p, name).state_dict() for p in (base, after))
        assert all(torch.equal(old[k].half().float(), new[k].float()) for k in old) is same

    checkpoint = load_model(folder / "whole" / "checkpoints")  # its text encoder is that of the base
    text = load_model(folder / "base").components["text_encoder"].state_dict()
    assert all(torch.equal(v, text[k]) for k, v in checkpoint.components["text_encoder"].state_dict().items())


def test_a_run_of_adapters_holds_adapters_alone_and_loads_in_diffusers(folder, adapted):
    pytest.importorskip("peft")
    assert {key.rpartition(".")[2] for key in state(adapted)} == {"A", "B"}
    assert {key.partition(".")[0] for key in state(adapted)} == {"nets", "ema"}
    made = {path.name for path in adapted.iterdir()}
    assert FILE in made
    assert not {"model.safetensors", "autoencoder.safetensors"} & made
    assert (
        convert.main([f"input={adapted}/checkpoints", "format=lora", f"output={folder}/b.safetensors"]) == 0
    )
    two = (load_file(path) for path in (adapted / FILE, folder / "b.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(*(d.values() for d in two), strict=True))

    width = load_model(folder / "base").config["backbone"]["context_dim"]
    x, tokens, t = torch.randn(2, 4, 8, 8), torch.randn(2, 7, width), torch.tensor([3.0, 700.0])
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "base", safety_checker=None)
    with torch.no_grad():
        plain = pipeline.unet(x, t, encoder_hidden_states=tokens).sample
        pipeline.load_lora_weights(adapted, weight_name=FILE)
        theirs = pipeline.unet(x, t, encoder_hidden_states=tokens).sample
        for model in (
            load_model(folder / "base", lora=adapted),
            load_model(adapted / "checkpoints"),
        ):
            ours = model.components["backbone"](x, t, Conditioning(tokens=tokens))
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert float((theirs - plain).abs().max()) > 1e-3


def test_a_run_of_adapters_goes_on_bit_for_bit(folder, nets, adapted):
    for steps in (1, 3):
        assert run(folder, nets, "parts", f"trainer.max_steps={steps}", *LORA) == 0
    whole, parts = state(adapted), state(folder / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_images_with_adapters_have_them_in_their_recipe(folder, adapted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ask = [f"checkpoint={folder}/base", "prompt=a cat", "num_inference_steps=1", "height=64", "width=64"]
    lora = [f"lora={adapted}/{FILE}", "lora_scale=0.5"]
    assert sample.main([*ask, *lora, "threads=1", "output=a.png"]) == 0
    assert sample.main(["replay=a.png", "output=b.png", "threads=1"]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sample.main([*ask, "lora=absent.safetensors", "threads=1", "output=c.png"]) == 2
    assert "no model file at absent.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("backbone.layers_per_block=2", "backbone.layers_per_block: must be 1 as in init_checkpoint, got 2"),
        (
            "backbone.linear_projection=true",
            "backbone.linear_projection: must be False as in init_checkpoint",
        ),
        ("text_encoder.pad_token=0", "text_encoder.pad_token: must be 49407 as in init_checkpoint, got 0"),
        ("init_checkpoint=absent", "no model file at absent"),
    ],
)
def test_a_config_other_than_that_of_the_checkpoint_is_one_line(change, says, folder, nets, tmp_path, capsys):
    assert run(folder, nets, "no", change, f"hydra.run.dir={tmp_path}/no") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert says in lines[-1]
    assert not (tmp_path / "no" / "checkpoints").exists()


def test_an_autoencoder_goes_on_from_that_of_a_checkpoint(tmp_path):
    ask = ["experiment=toy_autoencoder", "autoencoder=tiny", "data@first_stage.data=synthetic", "threads=1"]
    ask += ["first_stage.data.image_size=16", "first_stage.data.batch_size=4", "first_stage.max_steps=1"]
    first = tmp_path / "a" / "autoencoder.safetensors"
    again = ["first_stage.task.optimizer.lr=0.0", f"init_checkpoint={first}"]
    assert train.main([*ask, f"hydra.run.dir={tmp_path}/a"]) == 0
    assert train.main([*ask, *again, f"hydra.run.dir={tmp_path}/b"]) == 0
    old, new = load_file(first), load_file(tmp_path / "b" / "autoencoder.safetensors")
    assert all(torch.allclose(old[key], new[key]) for key in old)
    changed = ["autoencoder.mid_attention=false", f"hydra.run.dir={tmp_path}/c"]
    assert train.main([*ask, *again, *changed]) == 2
