"""Steps of a real Trainer, of a module with one weight that starts at 1."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch

from ldm.training.optim import LRSchedule
from ldm.training.optimized_module import OptimizedModule


class Net(OptimizedModule):
    """The gradient of batch i is the i-th of a list."""

    def __init__(self, gradients, lr_schedule=None):
        super().__init__(partial(torch.optim.SGD, lr=0.5), lr_schedule, batch_size=10)
        self.weight, self.gradients, self.seen = torch.nn.Parameter(torch.ones(1)), gradients, []

    def training_step(self, batch, batch_idx):
        loss = self.weight.sum() * self.gradients[batch_idx]
        self.watch(loss)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen.append((self.weight.item(), self.gradient_norm.item(), self.skipped))

    def train_dataloader(self):
        return torch.utils.data.DataLoader(range(len(self.gradients)))


def trained(folder, net, **settings):
    off = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=folder, **off, **settings)
    trainer.fit(net)
    return net


def test_a_gradient_is_clipped_and_its_own_norm_kept(tmp_path):
    net = trained(tmp_path, Net([4.0, 0.5]), gradient_clip_val=1.0)
    weights, norms, skipped = zip(*net.seen, strict=True)
    assert weights == pytest.approx((0.5, 0.25))
    assert norms == (4.0, 0.5)
    assert skipped == (False, False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_dropped_and_the_next_is_made(tmp_path, bad):
    net = trained(tmp_path, Net([1.0, bad, 1.0]))
    assert [(weight, skipped) for weight, _, skipped in net.seen] == [(0.5, False), (0.5, True), (0.0, False)]


def test_one_loss_of_an_accumulated_step_drops_the_step(tmp_path):
    """The other part's gradient is finite, and so may the sum be: the losses decide."""

    class Hidden(Net):
        def training_step(self, batch, batch_idx):
            self.watch(torch.tensor([1.0, float("nan") if batch_idx == 0 else 1.0]))
            return self.weight.sum()

    net = trained(tmp_path, Hidden([1.0] * 4), accumulate_grad_batches=2)
    assert net.seen[1][::2] == (1.0, True)
    assert net.seen[3][::2] == (0.5, False)


def test_the_rate_counts_images(tmp_path):
    net = Net([1.0, 1.0], LRSchedule(warmup_images=20, total_images=100))
    trained(tmp_path, net)
    first = 0.5 * 1 / 20  # no image has been seen
    second = 0.5 * 11 / 20  # a batch of 10 has
    assert [weight for weight, *_ in net.seen] == pytest.approx([1 - first, 1 - first - second])
