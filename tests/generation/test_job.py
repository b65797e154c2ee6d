from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.diffusion.schedule import cosine
from ldm.diffusion.timesteps import trailing
from ldm.generation import Draws, Settings
from ldm.generation.job import Job, Start
from ldm.guidance import CFG
from ldm.schedulers.ddim import DDIM

CPU = torch.device("cpu")


def job(count: int, batch_size: int, steps: int = 4) -> Job:
    schedule = cosine()
    values: dict[str, Any] = {"prompts": ["a"] * count, "negatives": [""] * count}
    values |= {"guidance": CFG(), "scale": 1.0, "net_scale": None, "scheduler": DDIM(), "thresholding": None}
    values |= {"noise": "independent", "schedule": schedule, "whole": True, "shape": (2, 3, 5)}
    values |= {"grid": trailing(schedule.num_train_timesteps, steps), "single": False}
    return Job(**values, draws=Draws(7, count, CPU), given=Settings(batch_size=batch_size))


@pytest.mark.parametrize(
    ("count", "size", "batches"),
    [(5, 2, [range(2), range(2, 4), range(4, 5)]), (4, 2, [range(2), range(2, 4)]), (3, 16, [range(3)])],
)
def test_batches_are_full_but_for_the_last_and_all_their_steps_are_counted(count, size, batches):
    made = job(count, size, steps=4)
    assert list(made.batches()) == batches
    assert made.steps == 4 * len(batches)


def test_pure_noise_is_as_wide_as_the_schedule_and_the_same_in_any_batch():
    made = job(40, 40)
    whole = made.pure_noise(range(40))
    assert whole.shape == (40, 2, 3, 5)
    spread = made.schedule.spread(made.grid[:1], 4)
    assert torch.equal(whole, made.draws.normal("x_T", 0, range(40), (2, 3, 5)) * spread)
    assert whole.std().item() == pytest.approx(spread.item(), rel=0.1)
    assert torch.equal(made.pure_noise(range(10, 12)), whole[10:12])


def test_the_noise_of_a_step_is_its_own():
    made = job(2, 2)
    draw, t = made.step_noise(range(2)), made.grid
    first, second = (draw(n, t[n], t[n + 1]) for n in range(2))
    assert first.shape == (2, 2, 3, 5)
    assert not torch.equal(first, second)
    assert not torch.equal(first, made.pure_noise(range(2)))
    assert torch.equal(made.step_noise(range(1, 2))(0, t[0], t[1]), first[1:])


def test_a_step_is_watched_then_blended_then_given_to_the_user():
    seen: list[tuple[str, float]] = []

    def watch(i: int, x: Tensor, x0: Tensor) -> None:
        seen.append(("watch", x.item()))

    def blend(i: int, x: Tensor) -> Tensor:
        seen.append(("blend", x.item()))
        return x + i

    def on_step(i: int, x: Tensor, x0: Tensor) -> Tensor | None:
        seen.append(("user", x.item()))
        return None if i == 0 else x * 10

    after = Start(x=torch.zeros(1), blend=blend).after_step(watch, on_step)
    one = torch.ones(1)
    assert after(0, one, one) == 1  # the user's None replaces nothing
    assert after(2, one, one) == 30
    assert seen == [("watch", 1), ("blend", 1), ("user", 1), ("watch", 1), ("blend", 1), ("user", 3)]


@pytest.mark.parametrize("returned", [torch.zeros(1, 1, 2, 2), torch.zeros(2, 2).long(), 5, {}])
def test_a_step_is_replaced_by_latents_of_its_shape_only(returned: Any):
    x = torch.ones(1, 4, 2, 2)
    after = Start(x=x).after_step(None, lambda i, x, x0: returned)
    with pytest.raises(ValueError, match=r"on_step must return None or .* latents must be .*\(1, 4, 2, 2\)"):
        after(0, x, x)
    halved = Start(x=x).after_step(None, lambda i, x, x0: x.half() / 2)(0, x, x)
    assert (halved.dtype, halved.unique().item()) == (torch.float32, 0.5)


def test_without_functions_a_step_goes_on_with_its_latents():
    x = torch.ones(1)
    assert Start(x=torch.zeros(1)).after_step(None, None)(0, x, x) is x
