"""A solver of one's own is one .py and one .yaml in a folder given by --config-dir."""

import json
from pathlib import Path

import pytest
from PIL import Image

from ldm import Text2ImagePipeline
from ldm.cli import sample, train

SOLVER = '''
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HalfStep:
    """DDIM's step; a share of 1 is all of it."""

    share: float = 1.0

    def step(self, denoise, schedule, x, t, s, state, noise):
        found = denoise(x, t)
        alpha, sigma = schedule(s, x.ndim)
        return self.share * (alpha * found.x0 + sigma * found.eps) + (1 - self.share) * x, None
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "scheduler").mkdir(parents=True)
    (tmp_path / "mine" / "halfstep.py").write_text(SOLVER)
    (tmp_path / "mine" / "scheduler" / "half.yaml").write_text("_target_: halfstep.HalfStep\nshare: 1.0\n")
    return tmp_path


def pixels(path):
    with Image.open(path) as image:
        return image.tobytes()


FAST = ["prompt=pizza", "num_inference_steps=3", "threads=1", "--config-dir=mine"]


def test_it_samples_and_is_checked_like_any_other(folder, capsys):
    assert sample.main([*FAST, "scheduler=half", "output=half.png"]) == 0
    assert sample.main([*FAST, "scheduler=ddim", "output=ddim.png"]) == 0
    assert pixels("half.png") == pixels("ddim.png")
    assert sample.main([*FAST, "scheduler=half", "scheduler.share=0.5", "output=other.png"]) == 0
    assert pixels("other.png") != pixels("ddim.png")
    capsys.readouterr()
    assert sample.main([*FAST, "scheduler=half", "+scheduler.shore=1", "output=b.png"]) == 2
    assert "did you mean 'share'" in capsys.readouterr().err


def test_a_picture_is_replayed_with_the_folder_and_refused_without(folder, capsys):
    assert sample.main([*FAST, "scheduler=half", "output=half.png"]) == 0
    with Image.open("half.png") as image:
        assert json.loads(image.info["ldm"])["scheduler"]["_target_"] == "halfstep.HalfStep"
    capsys.readouterr()
    assert sample.main(["replay=half.png", "output=again.png"]) == 2
    assert "there is no module 'halfstep'" in capsys.readouterr().err
    assert not Path("again.png").exists()
    assert sample.main(["replay=half.png", "output=again.png", "--config-dir=mine"]) == 0
    assert pixels("again.png") == pixels("half.png")


def test_modules_elsewhere_are_refused(folder, capsys):
    (folder / "other").mkdir()
    assert sample.main([*FAST[:-1], "+scheduler._target_=halfstep.HalfStep", "output=a.png"]) == 2
    assert "not allowed" in capsys.readouterr().err
    (folder / "mine" / "subprocess.py").write_text("")
    assert sample.main([*FAST, "+scheduler._target_=subprocess.run", "output=a.png"]) == 2
    assert "not allowed" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_training_draws_its_grids_with_it_and_the_model_names_it(folder):
    short = ["experiment=tiny", "threads=1", "trainer.max_steps=2", "first_stage.max_steps=2"]
    assert train.main([*short, "hydra.run.dir=run", "--config-dir=mine", "scheduler=half"]) == 0
    assert Path("run/samples/prompts.png").is_file()
    pipeline = Text2ImagePipeline.from_pretrained("run/model.safetensors", modules="mine")
    assert type(pipeline.sampler.defaults["scheduler"]).__name__ == "HalfStep"
    with pytest.raises(ValueError, match=r"halfstep.*--config-dir"):
        Text2ImagePipeline.from_pretrained("run/model.safetensors")
