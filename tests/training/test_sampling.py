"""The sampler of a model in training."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ldm.cli import sample, train
from ldm.utils.image_io import make_grid

PROMPTS = ["red circle", "blue square", "green triangle", "yellow circle", "red square"] * 2


def test_the_grid_of_a_checkpoint_is_what_ldm_sample_draws_from_it(tmp_path: Path):
    """Bit for bit, over more than one batch, with a solver that draws noise at each step."""
    run, text = tmp_path / "run", tmp_path / "prompts.txt"
    text.write_text("\n".join(PROMPTS))
    line = [
        "experiment=tiny",
        "trainer.max_steps=2",
        "first_stage.max_steps=2",
        "threads=1",
        "scheduler=ddpm",
    ]
    named = f"prompts=[{','.join(PROMPTS)}]"
    seeds = ["evaluation=prompts", "callbacks.samples.seed=5"]
    assert train.main([*line, named, *seeds, f"hydra.run.dir={run}"]) == 0
    checkpoint = run / "checkpoints" / "step_00000002" / "state.ckpt"
    asked = [f"checkpoint={checkpoint}", f"prompts={text}", "seed=5", f"output={tmp_path / 'images'}"]
    assert sample.main([*asked, "threads=1", "batch_size=8"]) == 0
    images = [np.array(Image.open(path)) for path in sorted((tmp_path / "images").iterdir())]
    drawn = make_grid(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), columns=8)
    with Image.open(run / "samples" / "step_00000002.png") as grid:
        assert np.array_equal(np.asarray(grid), np.asarray(drawn))
    assert len({image.tobytes() for image in images}) == len(PROMPTS)
