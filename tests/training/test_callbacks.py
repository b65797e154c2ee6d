"""Callbacks under a real Trainer, on a module with one weight; loggers are recorded or mocked."""

import signal
import threading
from types import SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

from ldm.training.callbacks import Metrics, SampleGrid, SaveOnInterrupt, TrainingDiverged

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Module(pl.LightningModule):
    """The loss of batch i is the i-th of a list; `hooks` counts what the EMA would count."""

    def __init__(self, losses=(), actions=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("hooks", torch.zeros(1))
        self.losses, self.actions, self.seen = losses, actions or {}, 0
        self.diffusion = SimpleNamespace(schedule=SimpleNamespace(num_train_timesteps=1000))

    def training_step(self, batch, batch_idx):
        i, self.seen = self.seen, self.seen + 1
        self.actions.get(i, lambda: None)()
        loss = torch.tensor(self.losses[i] if i < len(self.losses) else [1.0, 1.0])
        t = torch.tensor([10.0, 900.0])
        key = torch.tensor([2 * i, 2 * i + 1])
        return {"loss": self.weight.sum() * loss.mean(), "loss_per_sample": loss, "t": t, "key": key}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.hooks += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(range(1000))

    def sample_images(self, captions, seed):
        return torch.full((len(captions), 3, 4, 4), seed, dtype=torch.uint8)


def fit(folder, module, *callbacks, steps=4, accumulate=1, every=2, loggers=()):
    log = Mock(spec=CSVLogger)
    log.save_dir, log.name, log.version = str(folder), "", ""
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        log_every_n_steps=every,
        logger=[log, *loggers],
        callbacks=list(callbacks),
        default_root_dir=str(folder),
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    return trainer


def rows(trainer):
    calls = [call for call in trainer.loggers[0].log_metrics.call_args_list if "lr" in call.args[0]]
    return [(call.kwargs["step"], call.args[0]) for call in calls]


def test_loss_and_bins_are_means_over_the_window(tmp_path):
    trainer = fit(tmp_path, Module([[1.0, 3.0], [5.0, 7.0]]), Metrics(bins=2), steps=3)
    (first, row), (last, _) = rows(trainer)
    assert (first, last) == (2, 3)  # the window and the end
    assert row == {"train/loss": 4.0, "loss_t/00": 3.0, "loss_t/01": 5.0, "lr": 0.1}


def test_bins_without_a_sample_are_left_out(tmp_path):
    trainer = fit(tmp_path, Module(), Metrics(bins=10), steps=2)
    assert [name for name in rows(trainer)[0][1] if name.startswith("loss_t/")] == ["loss_t/00", "loss_t/09"]


def test_accumulated_batches_are_one_step(tmp_path):
    losses = [[float(i)] * 2 for i in range(12)]
    captions = ["a"]
    trainer = fit(
        tmp_path, Module(losses), Metrics(), SampleGrid(captions, 2), steps=4, accumulate=3, every=2
    )
    assert [(step, row["train/loss"]) for step, row in rows(trainer)] == [(2, 2.5), (4, 8.5)]
    drawn = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert drawn == ["step_00000002.png", "step_00000004.png"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_keys(tmp_path, bad):
    module = Module([[1.0, 1.0], [1.0, bad]])
    with pytest.raises(TrainingDiverged, match=r"step 2, keys \[3\].*optimizer\.lr"):
        fit(tmp_path, module, Metrics(), steps=20, every=4)


def test_no_checkpoint_is_written_after_a_loss_that_is_not_finite(tmp_path):
    saver = ModelCheckpoint(
        dirpath=tmp_path, filename="last", every_n_train_steps=3, enable_version_counter=False
    )
    module = Module([[1.0, 1.0]] * 4 + [[float("nan"), 1.0]])
    with pytest.raises(TrainingDiverged, match=r"step 5, keys \[8\]"):
        fit(tmp_path, module, Metrics(), saver, steps=50, every=50)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_grids_are_drawn_at_the_interval_and_at_the_end(tmp_path):
    board = Mock(spec=TensorBoardLogger)
    board.save_dir, board.name, board.version = str(tmp_path), "", ""
    grid = SampleGrid(captions=["red heart", "b"], every_n_steps=3, seed=7)
    fit(tmp_path, Module(), grid, steps=7, loggers=[board])
    drawn = sorted((tmp_path / "samples").iterdir())
    assert [p.name for p in drawn] == [f"step_{i:08d}.png" for i in (3, 6, 7)]
    text = Image.open(drawn[0]).text
    assert text == {"step": "3", "seed": "7", "prompts": "red heart\nb"}
    calls = board.experiment.add_image.call_args_list
    assert [call.args[2] for call in calls] == [3, 6, 7]
    assert calls[0].args[1].shape[1] > 2 * 96  # enlarged, so that the prompts below can be read


def test_an_interval_below_one_is_refused():
    with pytest.raises(ValueError, match=r"at least 1, got 0 \(callbacks\.samples\.every_n_steps\)"):
        SampleGrid(captions=["a"], every_n_steps=0)


def test_without_an_interrupt_nothing_is_saved_and_the_signals_come_back(tmp_path):
    before, callback = [signal.getsignal(s) for s in SIGNALS], SaveOnInterrupt()
    fit(tmp_path, Module(), callback)
    assert not callback.interrupted
    assert not (tmp_path / "checkpoints").exists()
    assert [signal.getsignal(s) for s in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_saves_the_finished_step_and_stops(tmp_path, number):
    """Also what the module's own hook, where its EMA may live, does at the end of the step."""
    before, callback = [signal.getsignal(s) for s in SIGNALS], SaveOnInterrupt()
    module = Module(actions={7: lambda: signal.raise_signal(number)})
    trainer = fit(tmp_path, module, callback, steps=50, accumulate=3)
    assert callback.interrupted
    assert trainer.global_step == 3  # batch 7 belongs to the third step
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert saved["state_dict"]["hooks"].item() == 9
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_a_second_interrupt_stops_at_once(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before, callback = [signal.getsignal(s) for s in SIGNALS], SaveOnInterrupt()
    with pytest.raises(SystemExit):  # what Lightning makes of KeyboardInterrupt
        fit(tmp_path, Module(actions={1: twice}), callback, steps=50)
    assert not (tmp_path / "checkpoints").exists()
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_signals_come_back_after_an_error(tmp_path):
    before = [signal.getsignal(s) for s in SIGNALS]
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, Module(actions={1: lambda: 1 / 0}), SaveOnInterrupt())
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_a_thread_trains_without_the_signals(tmp_path):
    errors = []

    def train():
        try:
            fit(tmp_path, Module(), SaveOnInterrupt())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert errors == []
