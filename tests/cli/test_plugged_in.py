"""A folder of one's own holds every kind of part; its model is read again by each command and from Python."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm import Text2ImagePipeline
from ldm.checkpoints.native import config_of
from ldm.checkpoints.tensors import TensorFiles
from ldm.cli import convert, ema, plan, sample, train
from ldm.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

NETS = '''
import torch
from torch import nn

from ldm.diffusion.conditioning import Conditioning
from ldm.models.identity import IdentityAutoencoder
from ldm.models.text_encoder import BaseTextEncoder


class Convolutions(nn.Module):
    context_dim = None
    position_size = None
    downscale = 1
    supports = frozenset()

    def __init__(self, channels: int, pooled_dim: int):
        super().__init__()
        self.in_channels = self.out_channels = channels
        self.pooled_dim = pooled_dim
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.embed = nn.Linear(pooled_dim + 1, 8)
        self.last = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x_t, t, cond):
        known = torch.cat([t[:, None].to(x_t.dtype) / 1000, cond.pooled], dim=1)
        h = self.first(x_t) + self.embed(known)[:, :, None, None]
        return self.last(torch.nn.functional.silu(h))


class Letters(BaseTextEncoder):
    trainable = True

    def __init__(self, width: int):
        super().__init__()
        self.pooled_dim = width
        self.table = nn.Embedding(128, width)

    def encode(self, captions):
        rows = [[ord(c) % 128 for c in caption[:16].ljust(16)] for caption in captions]
        index = torch.tensor(rows, device=self.table.weight.device)
        return Conditioning(pooled=self.table(index).mean(1))


class Mirrored(IdentityAutoencoder):
    """The latent is the negative."""

    def normalise(self, z):
        return -z

    def denormalise(self, z):
        return -z

    def to_latent(self, image, noise=None):
        return -image

    def from_latent(self, z):
        return -z
'''

RULES = '''
from dataclasses import dataclass

from ldm.diffusion.prediction import Velocity


@dataclass(frozen=True, kw_only=True)
class Speed(Velocity):
    """Velocity under another name."""


@dataclass(frozen=True, kw_only=True)
class HalfStep:
    """DDIM's step; a share of 1 is all of it."""

    share: float = 1.0

    def step(self, denoise, schedule, x, t, s, state, noise):
        found = denoise(x, t)
        alpha, sigma = schedule(s, x.ndim)
        return self.share * (alpha * found.x0 + sigma * found.eps) + (1 - self.share) * x, None
'''

LOSS = '''
from ldm.diffusion.weighting import Uniform


class Even(Uniform):
    """As much weight everywhere."""
'''

METRIC = """
from dataclasses import dataclass

from ldm.evaluation.score import Score


@dataclass(frozen=True, kw_only=True)
class Brightness:
    captions: list

    def __call__(self, sampler, data, folder):
        return Score(title="Brightness", values=float(sampler.images(self.captions, 0).float().mean()))
"""

OPTIONS = {
    "evaluation/own": "own:\n  _target_: own_metric.Brightness\n  captions: ${prompts}\n",
    "backbone/own": "_target_: own_nets.Convolutions\n_partial_: true\nchannels: 3\npooled_dim: 4\n",
    "text_encoder/own": "_target_: own_nets.Letters\n_partial_: true\nwidth: 4\n",
    "autoencoder/own": "_target_: own_nets.Mirrored\n_partial_: true\nlatent_channels: 3\n",
    "prediction/own": "_target_: own_rules.Speed\n",
    "weighting/own": "_target_: own_loss.Even\n",
    "scheduler/own": "_target_: own_rules.HalfStep\nshare: 1.0\n",
    "experiment/own": """# @package _global_
defaults:
  - override /data: synthetic
  - override /autoencoder: own
  - override /first_stage: none
  - override /text_encoder: own
  - override /backbone: own
  - override /prediction: own
  - override /weighting: own
  - override /scheduler: own
  - override /averages: power
  - override /evaluation: [own]
name: own
data: {image_size: 16, batch_size: 12}
trainer: {max_steps: 4, log_every_n_steps: 2}
sampling: {num_inference_steps: 3}
task: {ema_images: 24}
callbacks: {ema: {every_n_images: 12, budget_gigabytes: 0.1}}
prompts: [red circle, blue square]
""",
}


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with the user's modules and options in `mine`, and a run of them in `run`."""
    home = tmp_path_factory.mktemp("plugged_in")
    mine = home / "mine"
    for name, text in OPTIONS.items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / f"{name}.yaml").write_text(text)
    for name, text in {"own_nets": NETS, "own_rules": RULES, "own_loss": LOSS, "own_metric": METRIC}.items():
        (mine / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert run(train, "experiment=own", "hydra.run.dir=run") == 0
    return home


@pytest.fixture(autouse=True)
def inside(home, monkeypatch):
    """The folder as working directory."""
    monkeypatch.chdir(home)


def run(command, *words):
    threads = [] if command in (convert, ema) else ["threads=1"]
    return command.main([*words, *threads, "--config-dir=mine"])


def pixels(path):
    with Image.open(path) as image:
        return image.tobytes()


def test_the_model_names_the_users_own_parts():
    with TensorFiles([Path("run/model.safetensors")]) as files:
        config = config_of(files.metadata)
    assert config["backbone"]["_target_"] == "own_nets.Convolutions"
    assert config["sampling"]["scheduler"]["_target_"] == "own_rules.HalfStep"


def test_the_metric_is_in_the_summary():
    assert 0 <= json.loads(Path("run/summary.json").read_text())["own"] <= 255


def test_it_is_sampled_and_replayed_with_the_folder():
    fast = ["prompt=red circle", "num_inference_steps=2"]
    assert run(sample, "checkpoint=run/model.safetensors", *fast, "output=a.png") == 0
    assert run(sample, "replay=a.png", "output=b.png") == 0
    assert pixels("a.png") == pixels("b.png")


def test_without_the_folder_one_line_names_the_module_and_the_two_ways_to_give_it(capsys):
    words = ["checkpoint=run/model.safetensors", "prompt=red circle", "output=c.png", "threads=1"]
    assert sample.main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no module 'own_" in line
    assert "--config-dir FOLDER" in line
    assert "modules='FOLDER'" in line
    with pytest.raises(UserError, match="no module 'own_"):
        Text2ImagePipeline.from_pretrained("run/model.safetensors")


def test_from_python_the_folder_is_an_argument_and_the_weighting_is_not_needed(tmp_path):
    shutil.copytree("mine", tmp_path / "less")
    (tmp_path / "less" / "own_loss.py").unlink()
    images = [
        Text2ImagePipeline.from_pretrained("run/model.safetensors", modules=folder)(
            "red circle", num_inference_steps=2, seed=0, output="tensor"
        )
        for folder in ("mine", tmp_path / "less")
    ]
    assert torch.equal(*images)


def test_it_is_planned_and_dry_run(capsys):
    assert run(plan, "experiment=own", "cluster=laptop") == 0
    assert run(train, "experiment=own", "debug=dry") == 0


def test_a_checkpoint_is_converted_and_averaged_and_starts_another_run():
    newest = max(Path("run/checkpoints").iterdir())
    assert run(convert, f"input={newest}", "output=converted.safetensors") == 0
    assert Text2ImagePipeline.from_pretrained("converted.safetensors", modules="mine") is not None
    assert run(ema, "run=run", "sigma_rel=0.1", "output=averaged.safetensors") == 0
    assert Text2ImagePipeline.from_pretrained("averaged.safetensors", modules="mine") is not None
    words = ("experiment=own", "trainer.max_steps=2", "hydra.run.dir=other")
    assert run(train, *words, "init_checkpoint=converted.safetensors") == 0


def test_it_resumes():
    shutil.copytree("run", "longer")
    assert run(train, "experiment=own", "hydra.run.dir=longer", "trainer.max_steps=6") == 0
    assert json.loads(Path("longer/summary.json").read_text())["latent_diffusion"]["steps"] == 6


def test_a_net_without_a_member_is_refused_before_training(tmp_path, capsys):
    shutil.copytree("mine", tmp_path / "mine")
    nets = tmp_path / "mine" / "own_nets.py"
    nets.write_text(nets.read_text().replace("    supports = frozenset()\n", ""))
    words = ["experiment=own", "threads=1", f"--config-dir={tmp_path / 'mine'}"]
    assert train.main([*words, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    assert "backbone: Convolutions lacks supports; supports: " in capsys.readouterr().err
