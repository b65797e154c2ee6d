"""Speeds over a window with a clock that the test moves; FLOPs against torch's counter with real weights."""

import time
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ldm.diffusion.conditioning import Conditioning
from ldm.models.unet import UNet
from ldm.training.callbacks.speed import Speed, peak_memory
from ldm.training.flops import flops, flops_of_method


def logged(monkeypatch, peak_tflops):
    """What is logged of six steps of 16 images of 3 GFLOPs on two devices, each half a second."""
    now, rows = [10.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    trainer = Mock(
        spec=pl.Trainer,
        global_step=6,
        log_every_n_steps=4,
        world_size=2,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        train_dataloader=SimpleNamespace(waited=1.0),
        loggers=[SimpleNamespace(log_metrics=lambda metrics, step: rows.append((step, metrics)))],
    )
    module = Mock(spec=pl.LightningModule, batch_size=16, flops_per_image=lambda: 3e9)
    callback = Speed(peak_tflops=peak_tflops)
    callback.on_train_start(trainer, module)
    for step in (7, 8, 9, 10, 11, 12):
        now[0] += 0.5
        trainer.train_dataloader.waited += 0.1
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, 0)
    return rows


def test_rates_are_those_of_the_window(monkeypatch):
    rows = logged(monkeypatch, 0.6)
    assert [step for step, _ in rows] == [8, 12]
    for _, row in rows:
        assert row["images_per_second"] == pytest.approx(32.0)
        assert row["data_wait"] == pytest.approx(0.1)
        assert row["mfu"] == pytest.approx(32 * 3e9 / (2 * 0.6e12))
        assert row["memory_gb"] > 0


def test_a_peak_that_a_run_exceeds_is_raised_to_its_rate_and_said_once(monkeypatch, caplog):
    rows = logged(monkeypatch, 0.03)
    assert [row["mfu"] for _, row in rows] == pytest.approx([1.0, 1.0])
    (record,) = caplog.records
    assert record.getMessage() == "MFU is counted against a peak that the run exceeds by 60 %"


def test_the_memory_is_that_of_this_process():
    assert 0.01 < peak_memory(torch.device("cpu")) < 1000


def test_a_peak_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"got 0.0"):
        Speed(peak_tflops=0.0)


def test_flops_without_weights_are_those_with_them():
    make = partial(
        UNet,
        in_channels=4,
        out_channels=4,
        channels=[8, 16],
        attention=["none", "cross"],
        num_heads=2,
        context_dim=32,
        pooled_dim=32,
        norm_groups=4,
    )
    net, x = make(), torch.zeros(1, 4, 8, 8)
    cond = Conditioning(tokens=torch.zeros(1, 4, 32), pooled=torch.zeros(1, 32))
    with FlopCounterMode(display=False) as counter:
        net(x, torch.zeros(1), cond)
    meta = Conditioning(tokens=cond.tokens.to("meta"), pooled=cond.pooled.to("meta"))
    assert flops(lambda: make()(x.to("meta"), torch.zeros(1), meta)) == counter.get_total_flops() > 0


def test_flops_of_a_method_leave_the_net_alone():
    linear = torch.nn.Linear(3, 5)
    before = linear.weight.clone()
    assert flops_of_method(linear, "forward", (2, 3)) == 2 * 2 * 3 * 5
    assert linear.weight.device.type == "cpu"
    assert torch.equal(linear.weight, before)
