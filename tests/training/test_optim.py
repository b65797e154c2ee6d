from functools import partial

import pytest
import torch
from torch import nn

from ldm.training.optim import LRSchedule, optimizer_and_schedule
from ldm.utils.errors import UserError

SCHEDULE = LRSchedule(warmup_images=100, total_images=1000, decay_start=0.5, final=0.1)


def test_warm_up_plateau_and_cosine():
    assert SCHEDULE(0) == pytest.approx(0.01)
    assert SCHEDULE(49) == pytest.approx(0.5)
    assert SCHEDULE(200) == SCHEDULE(500) == 1.0
    assert SCHEDULE(750) == pytest.approx(0.55)
    assert SCHEDULE(1000) == SCHEDULE(5000) == pytest.approx(0.1)


def test_without_decay_the_rate_stays():
    assert LRSchedule(warmup_images=1, total_images=10, decay_start=1.0)(10_000) == 1.0


def test_decay_start_is_checked():
    with pytest.raises(ValueError, match=r"decay_start must be in \[0, 1\], got 2"):
        LRSchedule(warmup_images=1, total_images=10, decay_start=2.0)


def test_rate_depends_on_images_not_on_batches():
    """The same number of images, in batches of 10 and of 20, ends at the same rate."""
    rates = []
    for batch in (10, 20):
        net = nn.Linear(1, 1)
        made = optimizer_and_schedule(partial(torch.optim.SGD, lr=2.0), net.parameters(), SCHEDULE, batch)
        for _ in range(700 // batch):
            made["optimizer"].step()
            made["lr_scheduler"]["scheduler"].step()
        rates.append(made["optimizer"].param_groups[0]["lr"])
    assert rates[0] == rates[1] == 2.0 * SCHEDULE(700)


def test_frozen_parameters_are_left_out():
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    made = optimizer_and_schedule(partial(torch.optim.SGD, lr=1.0), net.parameters(), SCHEDULE, 1)
    assert [p.shape for g in made["optimizer"].param_groups for p in g["params"]] == [net.weight.shape]


def test_an_optimizer_that_refuses_the_parameters_is_a_mistake_of_the_user():
    def matrices_only(parameters):
        raise ValueError("Muon only supports 2D parameters\nwhereas we found a parameter with size 3")

    with pytest.raises(UserError, match="parameters: Muon only supports 2D parameters whereas we"):
        optimizer_and_schedule(matrices_only, nn.Linear(2, 2).parameters(), SCHEDULE, 1)


def test_without_a_schedule_the_rate_is_constant():
    optimizer = partial(torch.optim.SGD, lr=0.5)
    schedule = optimizer_and_schedule(optimizer, nn.Linear(2, 2).parameters(), None, 10)["lr_scheduler"]
    schedule["scheduler"].optimizer.step()
    schedule["scheduler"].step()
    assert schedule["scheduler"].get_last_lr() == [0.5]


def stepped(steps, lr, decay, saved=None, **settings):
    """Optimizer, schedule and net after steps from what was saved before."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    make = partial(torch.optim.AdamW, lr=lr, weight_decay=decay, **settings)
    made = optimizer_and_schedule(make, net.parameters(), SCHEDULE, 10)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    if saved is not None:
        optimizer.load_state_dict(saved[0])
        schedule.load_state_dict(saved[1])
        net.load_state_dict(saved[2])
    for _ in range(steps):
        net(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return optimizer, schedule, net


def saved(optimizer, schedule, net):
    parts = (optimizer.state_dict(), schedule.state_dict(), net.state_dict())
    return tuple({key: value for key, value in part.items()} for part in parts)


def test_a_checkpoint_brings_moments_and_step_but_no_settings():
    before = saved(*stepped(60, 1e-2, 0.1))
    optimizer, schedule, _ = stepped(0, 1e-3, 0.3, before, betas=(0.5, 0.6), eps=1e-6)
    (group,) = optimizer.param_groups
    assert group["lr"] == schedule.get_last_lr()[0] == 1e-3 * SCHEDULE(600)
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.3, (0.5, 0.6), 1e-6)
    (state,) = optimizer.state.values()
    assert state["step"] == 60
    optimizer, schedule, _ = stepped(1, 1e-3, 0.3, before)
    assert optimizer.param_groups[0]["lr"] == 1e-3 * SCHEDULE(610)


def test_resuming_with_the_same_settings_changes_no_bit():
    whole = stepped(75, 1e-2, 0.1)
    resumed = stepped(15, 1e-2, 0.1, saved(*stepped(60, 1e-2, 0.1)))
    assert torch.equal(whole[2].weight, resumed[2].weight)
    assert whole[1].state_dict() == resumed[1].state_dict()
    assert whole[0].state_dict()["param_groups"] == resumed[0].state_dict()["param_groups"]
