"""What Lightning, our callbacks and the CSV cost per step, against a plain loop over the same module.

All do the same work: batch, draws, forward, backward, clipping, AdamW, learning rate, EMA. The net is tiny,
so that the overhead shows; one thread, and its CPU time, which other work on the machine disturbs least.
"usual" is the loop as it is mostly written: clipping and EMA ask the modules for their parameters each step.
Run: python experiments/benchmarks/training_overhead.py
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from ldm.cli.compose import compose
from ldm.models.identity import IdentityAutoencoder
from ldm.training.callbacks.averages import FollowAverages
from ldm.training.lightning_internals import quieten_lightning
from ldm.training.optim import parameters_of
from ldm.utils.construct import construct

STEPS, TURN = 1000, 10


def config_for(folder: str) -> dict[str, Any]:
    overrides = [
        "experiment=tiny",
        "~callbacks.ema",
        "task.power_ema=[]",
        "data.batch_size=4",
        "autoencoder=identity",
        "backbone.channels=[8,8]",
        "backbone.attention=[none,none]",
        "backbone.mid_attention=none",
        f"trainer.max_steps={STEPS}",
        "trainer.log_every_n_steps=50",
        "callbacks.samples.every_n_steps=1000000",
        "callbacks.samples.captions=[red circle]",
        "sampling.num_inference_steps=1",
        f"paths.run={folder}",
    ]
    return compose("train", overrides)


class Turns:
    """Lets threads go on in turn, a few steps each: the machine's drift then is the same for all of them.

    Args:
        count: number of threads.
        steps: steps a turn.
    """

    def __init__(self, count: int, steps: int) -> None:
        self.gates = [threading.Semaphore(i == 0) for i in range(count)]
        self.steps = steps
        self.times: list[list[float]] = [[] for _ in range(count)]

    def stamper(self, index: int) -> Callable[[], None]:
        """What thread `index` calls after each of its steps."""
        done, start = 0, time.thread_time()

        def stamp() -> None:
            nonlocal done, start
            done += 1
            if done % self.steps:
                return
            self.times[index].append((time.thread_time() - start) / self.steps * 1e3)
            self.gates[(index + 1) % len(self.gates)].release()
            if done < STEPS:
                self.gates[index].acquire()
            start = time.thread_time()

        return stamp


def parts_of(config: dict[str, Any]) -> tuple[Any, Any]:
    """The module and its data."""
    module = construct(config["task"], "task", autoencoder=IdentityAutoencoder())
    return module, construct(config["data"], "data")


def with_lightning(config: dict[str, Any], stamp: Callable[[], None], bare: bool = False) -> None:
    module, data = parts_of(config)
    names = [] if bare else [name for name in config["callbacks"] if name != "checkpoint"]
    given = [construct(config["callbacks"][name], f"callbacks.{name}") for name in names]
    callbacks = [FollowAverages(), *given]
    logger = False if bare else [construct(node, f"logger.{name}") for name, node in config["logger"].items()]
    trainer = construct(config["trainer"], "trainer", callbacks=callbacks, logger=logger)
    module.on_train_batch_end = lambda *args, **kwargs: stamp()
    trainer.fit(module, datamodule=data)


def plain(config: dict[str, Any], stamp: Callable[[], None], usual: bool = False) -> None:
    module, data = parts_of(config)
    module.configure_model()
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]

    module._trainer = SimpleNamespace(datamodule=data)
    module.on_fit_start()
    average = module.averages[0]
    for i, batch in zip(range(STEPS), data.train_dataloader(), strict=False):
        loss = module.training_step(batch, i)["loss"]
        optimizer.zero_grad()
        loss.backward()
        clipped = module.nets.parameters() if usual else parameters_of(optimizer)
        torch.nn.utils.clip_grad_norm_(clipped, config["trainer"]["gradient_clip_val"])
        optimizer.step()
        schedule.step()
        if usual:
            average = module.weights.averages()[0]
        average.update(i * module.batch_size, (i + 1) * module.batch_size)
        stamp()


def main() -> None:
    torch.set_num_threads(1)
    quieten_lightning()
    loops = {
        "plain loop": plain,
        "plain loop, usual": partial(plain, usual=True),
        "Lightning alone": partial(with_lightning, bare=True),
        "ldm-train": with_lightning,
    }
    turns = Turns(len(loops), TURN)
    with tempfile.TemporaryDirectory() as folder:
        config = config_for(folder)

        def run(index: int, loop: Callable[..., None]) -> None:
            turns.gates[index].acquire()
            loop(config, turns.stamper(index))

        threads = [threading.Thread(target=run, args=item) for item in enumerate(loops.values())]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print("| | CPU ms a step | over the plain loop | ratio |\n|---|---|---|---|")
    reference = turns.times[0][2:]
    for name, times in zip(loops, turns.times, strict=True):
        pairs = list(zip(times[2:], reference, strict=True))
        more, ratio = (statistics.median(x) for x in ([a - b for a, b in pairs], [a / b for a, b in pairs]))
        print(f"| {name} | {statistics.median(times[2:]):.2f} | {more:+.2f} | {ratio:.3f} |")
    print(f"\nmedians of {len(reference)} turns of {TURN} steps")


if __name__ == "__main__":
    main()
