"""Grids under a real Trainer, on a module whose sampler draws one colour: its seed."""

from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from ldm.training.callbacks.sample_grid import SampleGrid
from ldm.training.loggers.tensorboard import TensorBoardLog


def test_grids_are_drawn_at_the_interval_and_at_the_end(small, tmp_path):
    board = Mock(spec=TensorBoardLog)
    board.save_dir, board.name, board.version = str(tmp_path), "", ""
    grid = SampleGrid(captions=["red heart", "b"], every_n_steps=3, seed=7)
    small.fit(tmp_path, small.Module(), grid, steps=7, loggers=[board])
    drawn = sorted((tmp_path / "samples").iterdir())
    assert [p.name for p in drawn] == [f"step_{i:08d}.png" for i in (3, 6, 7)]
    assert (np.asarray(Image.open(drawn[0]))[2:6, 2:6] == 7).all()  # the first image
    text = Image.open(drawn[0]).text
    assert text == {"step": "3", "seed": "7", "prompts": "red heart\nb"}
    calls = board.log_image.call_args_list
    assert [call.kwargs["step"] for call in calls] == [3, 6, 7]
    assert calls[0].kwargs["images"][0].width > 2 * 96  # enlarged, so that the prompts below can be read


def test_an_interval_below_one_is_refused():
    with pytest.raises(ValueError, match=r"at least 1, got 0"):
        SampleGrid(captions=["a"], every_n_steps=0)


@pytest.mark.parametrize("captions", [[], 0])
def test_without_captions_nothing_is_drawn(small, tmp_path, captions):
    small.fit(tmp_path, small.Module(), SampleGrid(captions=captions, every_n_steps=1))
    assert not (tmp_path / "samples").exists()
