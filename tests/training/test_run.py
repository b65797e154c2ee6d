"""A run on a plain dict; runs from the command line are in cli/test_train.py."""

import inspect
import io
import json
import subprocess
import sys
import tarfile
from unittest.mock import Mock

import pytest
import torch

from ldm.cli.compose import compose
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.run import facts, run

SHORT = ["experiment=tiny", "threads=1", "trainer.max_steps=2", "first_stage.max_steps=2"]
SHORT += ["sampling.num_inference_steps=1", "~callbacks.validation", "prompts=[red circle]"]
SHORT += ["evaluation.retrieval=null"]

WITHOUT_HYDRA = """
import json, sys, warnings
sys.modules["hydra"] = sys.modules["omegaconf"] = None  # importing them fails
warnings.simplefilter("ignore")
from ldm.training import run
config = json.load(open("config.json"))
run(config, "here")
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that a script has made, without Hydra, in a directory that the config does not name."""
    folder = tmp_path_factory.mktemp("run")
    config = compose("train", [*SHORT, f"paths.run={folder}/elsewhere"])
    (folder / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HYDRA], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_needs_no_hydra_and_stays_in_its_directory(finished):
    names = {path.name for path in (finished / "here").iterdir()}
    assert names >= {
        "autoencoder",
        "autoencoder.safetensors",
        "checkpoints",
        "config.yaml",
        "ema",
        "metrics.csv",
        "model.safetensors",
        "report.html",
        "samples",
        "summary.json",
    }
    assert (finished / "here" / "autoencoder" / "checkpoints").is_dir()
    assert not (finished / "elsewhere").exists()


def test_the_summary_says_how_to_sample(finished):
    facts = json.loads((finished / "here" / "summary.json").read_text())
    assert facts["latent_diffusion"]["steps"] == 2
    assert facts["sample_command"].startswith(f"ldm-sample checkpoint={finished}/here/model.safetensors ")
    assert list(facts["timings"]) == ["autoencoder", "latent diffusion", "samples and scores"]


@pytest.mark.parametrize(
    ("prompts", "argument"), [(16, "num_images=16"), (["red circle", "blue square"], 'prompt="red circle"')]
)
def test_the_command_to_sample_is_one_that_the_model_takes(prompts, argument):
    """An unconditional model has a number of images where others have prompts, and takes no prompt."""
    module = Mock(spec=LatentDiffusion, nets=torch.nn.Linear(2, 3))
    config = {"prompts": prompts, "trainer": {"max_steps": 5}}
    found = facts(module, None, config, "checkpoint=model.safetensors")
    assert found == {
        "latent_diffusion": {"parameters": 9, "steps": 5},
        "sample_command": f"ldm-sample checkpoint=model.safetensors {argument}",
    }


def test_the_function_is_public_whether_or_not_its_module_was_imported():
    """Here it was; the script of `WITHOUT_HYDRA` imports the function alone."""
    assert "ldm.training.run" in sys.modules
    from ldm.training import run

    assert inspect.isfunction(run)


@pytest.mark.parametrize("stage", ["data", "first_stage.data"])
def test_data_without_a_caption_are_refused_before_the_first_stage_is_trained(stage, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, data in (("0.jpg", b"image"), ("0.json", b'{"caption": "a cat"}')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    config = compose("train", [*SHORT, f"paths.run={tmp_path}/run"])
    shards = {"_target_": "ldm.data.laion.LaionData", "shards": f"{tmp_path}/0.tar", "image_size": 16}
    node = shards | {"batch_size": 8}
    if stage == "data":
        config["data"] = node
    else:
        config["first_stage"]["data"] = node
    monkeypatch.setattr("ldm.training.first_stage.fit", Mock(side_effect=AssertionError("trained")))
    with pytest.raises(ValueError, match=r"none of 1 samples has a caption .*set data\.caption=caption"):
        run(config, tmp_path / "run")
