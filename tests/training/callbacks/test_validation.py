"""The validation loss: its draws are the same at every step."""

from types import SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch

from ldm.training.callbacks.validation import ValidationLoss


class Recorded(pl.LightningModule):
    """Notes its draws; the loss of a draw is its u."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def validation_losses(self, samples, u, draw, seed):
        image, captions = samples["image"], samples["caption"]
        self.seen += list(zip(draw.tolist(), captions, u.tolist(), image[:, 0, 0, 0].tolist(), strict=True))
        return u


def measured(step, world=1, n=6):
    """Rows logged, and draws, of all ranks."""
    samples = {
        "image": torch.arange(float(n)).view(n, 1, 1, 1).expand(n, 3, 2, 2),
        "caption": list("abcdef"[:n]),
    }
    rows, seen, losses = [], [], torch.zeros(16)
    for rank in range(world):
        callback, module = ValidationLoss(every_n_steps=5, draws=16, strata=4, batch_size=4), Recorded()
        logger = SimpleNamespace(log_metrics=lambda metrics, step: rows.append((step, metrics)))
        trainer = Mock(
            spec=pl.Trainer,
            global_step=step,
            max_steps=100,
            datamodule=SimpleNamespace(validation_samples=lambda limit: samples),
            loggers=[logger],
            global_rank=rank,
            world_size=world,
            strategy=SimpleNamespace(reduce=lambda loss, reduce_op: losses.add_(loss)),
        )
        callback.on_train_batch_end(trainer, module, None, None, 0)
        seen += module.seen
    return rows, sorted(seen)


def test_every_step_has_the_same_draws_all_strata_and_all_samples():
    rows, seen = measured(5)
    assert (measured(10)[0][0][1], measured(10)[1]) == (rows[0][1], seen)
    assert measured(7) == ([], [])
    assert [int(u * 4) for _, _, u, _ in seen] == [0, 1, 2, 3] * 4
    assert {caption for _, caption, _, _ in seen} == set("abcdef")
    assert all("abcdef"[int(image)] == caption for _, caption, _, image in seen)


def test_a_sample_is_not_tied_to_a_stratum():
    """With as many samples as strata, each sample meets several strata."""
    _, seen = measured(5, n=4)
    assert all(len({int(4 * u) for _, c, u, _ in seen if c == caption}) > 1 for caption in "abcd")


def test_ranks_share_the_draws():
    alone, several = measured(5), measured(5, world=2)
    assert several[1] == alone[1]
    assert several[0][-1] == alone[0][-1]


@pytest.mark.parametrize(("draws", "strata"), [(10, 4), (4, 4), (8, 0)])
def test_impossible_numbers_of_draws_are_refused(draws, strata):
    with pytest.raises(ValueError, match=r"draws must be a multiple of strata"):
        ValidationLoss(every_n_steps=1, draws=draws, strata=strata)


def test_an_interval_below_one_is_refused():
    with pytest.raises(ValueError, match=r"got 0"):
        ValidationLoss(every_n_steps=0)
