"""What Lightning, our callbacks and the CSV cost per step, against a plain loop over the same module.

Both do the same work: batch, draws, forward, backward, clipping, AdamW, learning rate, EMA. The net is tiny,
so that the overhead shows; one thread, and its CPU time, which other work on the machine disturbs least.
Run: python experiments/benchmarks/training_overhead.py
"""

import statistics
import tempfile
import time

import torch
from hydra import compose, initialize_config_module

from ldm.cli.app import register_resolvers
from ldm.cli.config import build
from ldm.cli.stages import quieten_lightning
from ldm.models.identity import IdentityAutoencoder
from ldm.training.ema import update_twin

STEPS, ROUNDS = 400, 5


def config(folder: str):
    register_resolvers()
    overrides = [
        "experiment=tiny",
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
    with initialize_config_module("ldm.conf", version_base="1.3"):
        return compose("train", overrides)


def parts(cfg):
    return build(cfg.task, autoencoder=IdentityAutoencoder()), build(cfg.data)


def with_lightning(cfg) -> float:
    module, data = parts(cfg)
    callbacks = [build(node) for name, node in cfg.callbacks.items() if name != "checkpoint"]
    logger = [build(node) for node in cfg.logger.values()]
    trainer = build(cfg.trainer, callbacks=callbacks, logger=logger)
    times = []
    step = module.on_train_batch_end

    def stamped(*args, **kwargs):
        step(*args, **kwargs)
        times.append(time.process_time())

    module.on_train_batch_end = stamped
    trainer.fit(module, datamodule=data)
    return (times[-2] - times[20]) / (len(times) - 22) * 1e3  # the last step draws a grid


def plain(cfg) -> float:
    module, data = parts(cfg)
    module.configure_model()
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]

    class Trainer:
        datamodule, accumulate_grad_batches, global_step = data, 1, 0

    module._trainer = Trainer()
    module.on_fit_start()
    batches = iter(data.train_dataloader())
    times = []
    for i in range(STEPS):
        loss = module.training_step(next(batches), i)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.nets.parameters(), cfg.trainer.gradient_clip_val)
        optimizer.step()
        schedule.step()
        Trainer.global_step = i + 1
        update_twin(module.ema, module.nets, module.ema_decay, i + 1)
        times.append(time.process_time())
    return (times[-2] - times[20]) / (len(times) - 22) * 1e3


def main() -> None:
    torch.set_num_threads(1)
    quieten_lightning()
    rows = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            rows.append((plain(config(folder)), with_lightning(config(folder))))
    loop, fit = (statistics.median(column) for column in zip(*rows, strict=True))
    difference = statistics.median(b - a for a, b in rows)
    print("| CPU ms a step | plain loop | ldm-train | difference | ratio |\n|---|---|---|---|---|")
    print(f"| median of {ROUNDS} | {loop:.2f} | {fit:.2f} | {difference:+.2f} | {fit / loop:.3f} |")


if __name__ == "__main__":
    main()
