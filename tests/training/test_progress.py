from types import SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest

from ldm.training.progress import TrainingProgress, duration


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12s"), (250.0, "4m10s"), (3720.0, "1h02m")])
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


def test_plain_lines_with_an_eta_where_the_output_is_no_terminal(capsys):
    rows = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: rows.append((step, metrics)))
    trainer = Mock(
        spec=pl.Trainer,
        global_step=0,
        max_steps=4,
        log_every_n_steps=2,
        loggers=[logger],
        is_global_zero=True,
    )
    module = Mock(spec=pl.LightningModule)
    module.batch_size = 8
    progress = TrainingProgress("demo", every_seconds=0.0)
    progress.on_train_start(trainer, module)
    for step in (1, 2, 3, 4):
        trainer.global_step = step
        progress.on_train_batch_end(trainer, module, {"loss": 0.5}, None, step - 1)
    progress.on_train_end(trainer, module)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("demo: step 2/4  50%  loss 0.500")
    assert "ETA" in lines[1]
    assert [step for step, _ in rows] == [2, 4]
    assert all(row["images_per_second"] > 0 for _, row in rows)
