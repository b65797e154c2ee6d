import sys
import time
from unittest.mock import Mock

import lightning.pytorch as pl
import torch

from ldm.training.callbacks.progress import TrainingProgress


class Run:
    """A progress callback with a trainer whose steps and clock the test moves."""

    def __init__(self, monkeypatch, every_seconds, max_steps=4, accumulate=1):
        self.now, self.batch = 100.0, 0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        self.trainer = Mock(
            spec=pl.Trainer,
            global_step=0,
            max_steps=max_steps,
            log_every_n_steps=2,
            is_global_zero=True,
            accumulate_grad_batches=accumulate,
        )
        self.module = Mock(spec=pl.LightningModule, batch_size=8, stage="demo")
        self.progress = TrainingProgress(every_seconds=every_seconds)
        self.progress.on_train_start(self.trainer, self.module)

    def batch_end(self, step, loss=0.5, seconds=1.0):
        self.now += seconds
        self.trainer.global_step = step
        outputs = {"loss": torch.tensor(loss)}
        self.progress.on_train_batch_end(self.trainer, self.module, outputs, None, self.batch)
        self.batch += 1


def test_plain_lines_with_an_eta_where_the_output_is_no_terminal(capsys, monkeypatch):
    run = Run(monkeypatch, every_seconds=0.0)
    for step in (1, 2, 3, 4):
        run.batch_end(step)
    run.progress.on_train_end(run.trainer, run.module)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[1] == "demo: step 2/4  50%  loss 0.500  8 img/s  ETA 2s"


def test_the_first_line_comes_early_and_the_last_step_is_shown(capsys, monkeypatch):
    run = Run(monkeypatch, every_seconds=20.0, max_steps=30)
    for step in range(1, 31):
        run.batch_end(step)
    shown = [line.split()[2] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["3/30", "23/30", "30/30"]


def test_the_loss_is_the_mean_since_the_last_line(capsys, monkeypatch):
    run = Run(monkeypatch, every_seconds=2.0)
    for step, loss in ((1, 1.0), (2, 2.0), (3, 7.0), (4, 8.0)):
        run.batch_end(step, loss)
    lines = capsys.readouterr().err.splitlines()
    assert ["loss 1.500" in lines[0], "loss 7.500" in lines[1]] == [True, True]


def test_before_the_first_step_of_accumulated_batches_nothing_is_shown(capsys, monkeypatch):
    run = Run(monkeypatch, every_seconds=0.0, accumulate=2)
    run.batch_end(0, 0.25)  # Lightning has halved the losses 0.5 and 1.5
    assert capsys.readouterr().err == ""
    run.batch_end(1, 0.75)
    assert "step 1/4  25%  loss 1.000" in capsys.readouterr().err


def test_a_bar_on_a_terminal_is_closed_after_an_error(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    run = Run(monkeypatch, every_seconds=20.0)
    run.batch_end(1)
    assert run.progress._bar is not None
    run.progress.on_exception(run.trainer, run.module, ValueError())
    assert run.progress._bar is None
    assert "1/4" in capsys.readouterr().err
