import signal
from types import SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from ldm.training.callbacks import Metrics, SampleGrid, SaveOnInterrupt, TrainingDiverged


class Log:
    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step):
        self.rows.append((step, metrics))


def fake_trainer(tmp_path, **changes):
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    values = {
        "global_step": 1,
        "max_steps": 100,
        "log_every_n_steps": 2,
        "loggers": [Log()],
        "optimizers": [optimizer],
        "is_global_zero": True,
        "default_root_dir": str(tmp_path),
        "should_stop": False,
        "saved": [],
    }
    trainer = Mock(spec=pl.Trainer, **(values | changes))
    trainer.save_checkpoint = lambda path, weights_only: trainer.saved.append(path)
    return trainer


def fake_module(**attributes):
    module = Mock(spec=pl.LightningModule)
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def outputs(loss, t):
    return {"loss_per_sample": torch.tensor(loss), "t": torch.tensor(t), "key": torch.arange(len(loss))}


MODULE = fake_module(diffusion=SimpleNamespace(schedule=SimpleNamespace(num_train_timesteps=1000)))


def test_loss_and_bins_are_means_over_the_window(tmp_path):
    metrics, trainer = Metrics(bins=2), fake_trainer(tmp_path)
    metrics.on_train_batch_end(trainer, MODULE, outputs([1.0, 3.0], [10.0, 900.0]), None, 0)
    trainer.global_step = 2
    metrics.on_train_batch_end(trainer, MODULE, outputs([5.0, 7.0], [20.0, 999.0]), None, 1)
    ((step, row),) = trainer.loggers[0].rows
    assert step == 2
    assert row["train/loss"] == 4.0
    assert (row["loss_t/00"], row["loss_t/01"]) == (3.0, 5.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_keys(tmp_path, bad):
    metrics, trainer = Metrics(), fake_trainer(tmp_path, global_step=2)
    with pytest.raises(TrainingDiverged, match=r"steps 2\.\.2, keys \[1\].*optimizer\.lr"):
        metrics.on_train_batch_end(trainer, MODULE, outputs([1.0, bad], [0.0, 0.0]), None, 0)


def test_grids_are_drawn_at_the_interval_and_at_the_end(tmp_path):
    module = fake_module(sample_images=lambda c, s: torch.zeros(len(c), 3, 4, 4, dtype=torch.uint8))
    grid = SampleGrid(captions=["a", "b"], every_n_steps=10)
    board = Mock(spec=TensorBoardLogger)
    for step in (5, 10, 15, 17):
        trainer = fake_trainer(tmp_path, global_step=step, max_steps=17, loggers=[board])
        grid.on_train_batch_end(trainer, module, None, None, 0)
    drawn = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert drawn == ["step_00000010.png", "step_00000017.png"]
    assert [call.args[2] for call in board.experiment.add_image.call_args_list] == [10, 17]


def test_an_interrupt_saves_and_stops_at_the_end_of_the_step(tmp_path):
    callback, trainer = SaveOnInterrupt(), fake_trainer(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    callback.on_train_start(trainer, MODULE)
    try:
        signal.raise_signal(signal.SIGINT)
        assert not trainer.should_stop
        callback.on_train_batch_end(trainer, MODULE, None, None, 0)
        assert trainer.should_stop
        assert [str(p) for p in trainer.saved] == [str(tmp_path / "checkpoints" / "last.ckpt")]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        callback.on_train_end(trainer, MODULE)
    assert signal.getsignal(signal.SIGINT) is before
