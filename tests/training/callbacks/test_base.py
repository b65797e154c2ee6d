"""A callback acts once per optimizer step."""

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from ldm.training.callbacks.base import StepCallback


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.net(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Count(StepCallback):
    def __init__(self):
        self.steps, self.batches = [], 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches += 1
        if self.stepped(trainer):
            self.steps.append(trainer.global_step)


def test_batches_of_an_accumulated_step_count_once(tmp_path):
    count = Count()
    trainer = pl.Trainer(
        max_steps=3,
        accumulate_grad_batches=2,
        callbacks=[count],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Net(), DataLoader(torch.zeros(8, 1), batch_size=1))
    assert (count.steps, count.batches) == ([1, 2, 3], 6)
