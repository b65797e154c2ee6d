"""The callback; the connections that it makes are in test_heartbeats.py, whole runs in test_kills.py."""

from types import SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest

from ldm.training.distributed import watchdog
from ldm.training.distributed.watchdog import Watchdog


@pytest.fixture
def heartbeats(monkeypatch):
    """Stands in for the connections: their class, whose instance is `heartbeats.return_value`."""
    made = Mock(spec=watchdog.Heartbeats)
    monkeypatch.setattr(watchdog, "Heartbeats", made)
    return made


MODULE = Mock(spec=pl.LightningModule)


def trainer(world):
    strategy = SimpleNamespace(cluster_environment=SimpleNamespace(main_address="there"), broadcast=len)
    return Mock(spec=pl.Trainer, world_size=world, global_rank=1, strategy=strategy)


@pytest.mark.parametrize("silence", [0.0, -1.0])
def test_no_silence_at_all_is_refused(silence):
    with pytest.raises(ValueError, match=rf"above 0, got {silence}"):
        Watchdog(silence=silence)


def test_ranks_are_connected_and_leave_at_a_regular_end(heartbeats):
    callback = Watchdog(silence=7.0)
    callback.setup(trainer(3), MODULE, "fit")
    heartbeats.assert_called_once_with(1, 3, "there", len, 7.0)
    callback.teardown(trainer(3), MODULE, "fit")
    assert [name for name, *_ in heartbeats.return_value.method_calls] == ["leave"]


@pytest.mark.parametrize(
    ("exception", "calls"),
    [(ValueError("nan"), ["fail", "leave"]), (KeyboardInterrupt(), ["leave"])],
)
def test_other_ranks_are_notified_of_a_failure_but_not_of_an_interrupt(heartbeats, exception, calls):
    callback = Watchdog()
    callback.setup(trainer(2), MODULE, "fit")
    callback.on_exception(trainer(2), MODULE, exception)
    assert [name for name, *_ in heartbeats.return_value.method_calls] == calls


def test_one_process_alone_is_not_watched(heartbeats):
    callback = Watchdog()
    callback.setup(trainer(1), MODULE, "fit")
    callback.on_exception(trainer(1), MODULE, ValueError("nan"))
    callback.teardown(trainer(1), MODULE, "fit")
    heartbeats.assert_not_called()
