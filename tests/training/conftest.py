"""A module with one weight under a real Trainer; loggers are recorded."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from ldm.training.optim import clip_or_drop

FOLDER = Path(__file__).parents[2] / "experiments" / "exact_resume"


class Module(pl.LightningModule):
    """The loss of batch i is the i-th of a list; `hooks` counts what the EMA would count."""

    def __init__(self, losses=(), actions=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("hooks", torch.zeros(1))
        self.losses, self.actions, self.seen, self.sound = losses, actions or {}, 0, True
        self.diffusion = SimpleNamespace(schedule=SimpleNamespace(num_train_timesteps=1000))

    def training_step(self, batch, batch_idx):
        i, self.seen = self.seen, self.seen + 1
        self.actions.get(i, lambda: None)()
        loss = torch.tensor(self.losses[i] if i < len(self.losses) else [1.0, 1.0])
        t = torch.tensor([10.0, 900.0])
        key = torch.tensor([2 * i, 2 * i + 1])
        self.sound = self.sound and bool(loss.isfinite().all())
        return {"loss": self.weight.sum() * loss.mean(), "loss_per_sample": loss, "t": t, "key": key}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        agree = self.trainer.strategy.reduce_boolean_decision
        parameters = list(self.parameters())
        self.gradient_norm, self.skipped = clip_or_drop(parameters, gradient_clip_val, self.sound, agree)
        self.sound = True

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.hooks += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(range(1000))

    @property
    def sampler(self):
        def images(captions, seed):
            return torch.full((len(captions), 3, 4, 4), seed, dtype=torch.uint8)

        return SimpleNamespace(images=images)


def fit(folder, module, *callbacks, steps=4, accumulate=1, every=2, loggers=(), path=None):
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
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ckpt_path=path, weights_only=None if path is None else True)
    return trainer


def rows(trainer):
    calls = [call for call in trainer.loggers[0].log_metrics.call_args_list if "lr" in call.args[0]]
    return [(call.kwargs["step"], call.args[0]) for call in calls]


@pytest.fixture(scope="module")
def kills():
    """The study's module, importable by the processes that it starts."""
    sys.path.insert(0, str(FOLDER))
    import kills

    yield kills
    sys.path.remove(str(FOLDER))


@pytest.fixture
def small() -> ModuleType:
    """`Module`, `fit` and `rows` of this file."""
    return sys.modules[__name__]
