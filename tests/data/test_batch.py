"""In-memory loading: the sequence of batches is a function of (seed, step) alone."""

import inspect
import pickle
import tarfile
from itertools import islice
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from ldm.cli.compose import compose
from ldm.data.batch import MemoryData, Stream, check_fraction, to_float
from ldm.diffusion import random
from ldm.utils.construct import construct
from ldm.utils.targets import locate

CONFIGS = sorted(p.stem for p in (Path(__file__).parents[2] / "conf" / "data").glob("*.yaml"))


class Noise(MemoryData):
    """Keys 100 .. 100 + n-1 whose image is drawn by (seed, key, visit)."""

    def __init__(self, n=25, **changes):
        super().__init__(**{"batch_size": 4, "image_size": 2, "seed": 3, **changes})
        self.n = n

    def training_keys(self):
        return torch.arange(100, 100 + self.n)

    def get(self, key, visit):
        image = random.uniform(self.seed, "augment", key, visit, (3, 2, 2))
        return {"image": image, "caption": [f"{k} at {visit}" for k in key.tolist()], "key": key}


class Recorder(pl.LightningModule):
    """Remembers the keys it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch):
        self.seen.append((batch["key"].tolist(), batch["caption"]))
        return self.weight**2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def take(data, n):
    return list(islice(data.train_dataloader(), n))


def same(a, b):
    return (
        a["caption"] == b["caption"]
        and torch.equal(a["key"], b["key"])
        and torch.equal(a["image"], b["image"])
    )


def test_the_order_is_a_function_of_seed_and_epoch():
    data = Noise()
    keys = [torch.cat([b["key"] for b in take(data, 24)][i : i + 6]).tolist() for i in (0, 6, 12, 18)]
    assert keys == [
        torch.cat([b["key"] for b in take(Noise(), 24)][i : i + 6]).tolist() for i in (0, 6, 12, 18)
    ]
    assert len({tuple(k) for k in keys}) == 4
    assert keys[0] != torch.cat([b["key"] for b in take(Noise(seed=4), 6)]).tolist()


def test_every_epoch_has_each_key_once_but_for_what_does_not_fill_a_batch():
    data = Noise()
    assert data.steps_per_epoch == 6
    for epoch in range(20):
        keys = torch.cat([data.batch(step)["key"] for step in range(6 * epoch, 6 * epoch + 6)])
        assert len(keys.unique()) == 24
    left_out = {
        min(set(range(100, 125)) - set(torch.cat([data.batch(6 * e + s)["key"] for s in range(6)]).tolist()))
        for e in range(20)
    }
    assert len(left_out) > 8


def test_the_visit_is_the_epoch():
    data = Noise()
    for step in (0, 5, 6, 17, 600):
        assert data.batch(step)["visit"].tolist() == [step // 6] * 4
        assert all(c.endswith(f" at {step // 6}") for c in data.batch(step)["caption"])


@pytest.mark.parametrize("step", [0, 1, 6, 17])
def test_resuming_goes_on_as_if_never_stopped(step):
    resumed = Noise()
    resumed.resume(step)
    assert all(same(a, b) for a, b in zip(take(Noise(), step + 9)[step:], take(resumed, 9), strict=True))


def test_resuming_far_ahead_costs_nothing():
    data = Noise()
    data.resume(10**12 + 1)
    assert same(take(data, 1)[0], Noise().batch(10**12 + 1))


@pytest.mark.parametrize("world", [2, 4])
def test_the_parts_of_the_ranks_are_the_global_batch(world):
    data = Noise()
    for step in (0, 7, 50):
        parts = [data.batch(step, rank, world) for rank in range(world)]
        whole = data.batch(step)
        assert torch.equal(torch.cat([p["key"] for p in parts]), whole["key"])
        assert torch.equal(torch.cat([p["image"] for p in parts]), whole["image"])
        assert [caption for p in parts for caption in p["caption"]] == whole["caption"]


def test_a_sample_does_not_depend_on_its_batch():
    small, large = Noise(batch_size=2), Noise(batch_size=8)
    for epoch in range(3):
        rows = []
        for data in (small, large):
            steps = range(epoch * data.steps_per_epoch, (epoch + 1) * data.steps_per_epoch)
            rows.append(torch.cat([data.batch(step)["image"] for step in steps]))
        assert torch.equal(*rows)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 2), (4, 1)])
def test_ranks_and_accumulation_cut_the_same_global_batch(world, accumulate):
    streams = [iter(Stream(Noise(), 3, rank, world, accumulate)) for rank in range(world)]
    for step in range(3, 9):
        parts = [next(stream) for _ in range(accumulate) for stream in streams]
        whole = Noise().batch(step)
        assert torch.equal(torch.cat([part["key"] for part in parts]), whole["key"])
        assert torch.equal(torch.cat([part["image"] for part in parts]), whole["image"])
        assert torch.equal(torch.cat([part["visit"] for part in parts]), whole["visit"])


def test_workers_give_the_batches_of_the_training_process(monkeypatch):
    info = type("Info", (), {"num_workers": 3})
    parts = []
    for worker in range(3):
        info.id = worker
        monkeypatch.setattr("ldm.data.batch.get_worker_info", lambda: info)
        parts.append(list(islice(Stream(Noise(), 5, 0, 1), 4)))
    taken_in_turn = [batch for turn in zip(*parts, strict=True) for batch in turn]
    assert all(same(b, Noise().batch(5 + i)) for i, b in enumerate(taken_in_turn))


def test_real_workers_keep_the_order():
    data = Noise(num_workers=2)
    data.resume(3)
    assert all(same(batch, Noise().batch(3 + i)) for i, batch in enumerate(take(data, 7)))


def test_a_data_set_smaller_than_a_batch_is_repeated():
    data = Noise(n=3)
    assert data.steps_per_epoch == 1
    assert len(data.batch(0)["key"]) == 4
    assert set(data.batch(0)["key"].tolist()) == {100, 101, 102}


def test_a_copy_for_a_loader_process_gives_the_same_batches():
    data = Noise()
    data.batch(0)
    assert same(pickle.loads(pickle.dumps(data)).batch(8), data.batch(8))


def test_the_trainer_gets_the_stream_and_goes_on_where_it_was(tmp_path):
    def fit(steps, path=None, start=0):
        module, data = Recorder(), Noise()
        data.resume(start)
        trainer = pl.Trainer(
            max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return module.seen

    whole = fit(11)
    assert fit(4) + fit(11, tmp_path / "last.ckpt", start=4) == whole
    assert whole == [(b["key"].tolist(), b["caption"]) for b in take(Noise(), 11)]


def test_ranks_that_do_not_divide_the_batch_are_refused():
    data = Noise()
    data.trainer = type("Trainer", (), {"global_rank": 0, "world_size": 3, "accumulate_grad_batches": 1})()
    with pytest.raises(ValueError, match=r"multiple of 3 ranks x 1 accumulated batches, got 4"):
        data.train_dataloader()


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("image_size", 0), ("num_workers", -1)])
def test_impossible_sizes_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be at least \d, got {value}"):
        Noise(**{name: value})


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        Noise().resume(-1)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_fractions_lie_between_zero_and_one(value):
    with pytest.raises(ValueError, match=r"flip must be in \[0, 1\], got .*"):
        check_fraction("flip", value)


def test_pixels_become_minus_one_to_one():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    image = to_float(pixels)
    assert (image.min(), image.max()) == (-1.0, 1.0)
    assert torch.equal(((image + 1.0) * 127.5).round().byte(), pixels)


@pytest.fixture
def folders(tmp_path):
    """Overrides that give every config something to read."""
    from ldm.data.synthetic import draw

    (tmp_path / "circle").mkdir()
    for i in range(4):
        draw("circle", (40 * i, 0, 0), 8).save(tmp_path / "circle" / f"{i}.png")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for i in range(4):
            for name, source in (("png", tmp_path / "circle" / f"{i}.png"), ("txt", Path(__file__))):
                tar.add(source, f"{i}.{name}")
    small = ["data.batch_size=2", "data.num_workers=0"]
    return {
        "imagefolder": [f"data.root={tmp_path}", "data.batch_size=2"],
        "laion": [f"data.shards={tmp_path}/shard.tar", *small],
        "latents": [f"data.folder={tmp_path}"],
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_gives_batches_of_the_contract(name, folders):
    node = compose("train", [f"data={name}", "paths.run=/nowhere", *folders.get(name, [])])["data"]
    arguments = set(inspect.signature(locate(node["_target_"])).parameters)
    assert set(node) - {"_target_"} == arguments, "YAML keys are the constructor's arguments, all of them"
    if name in ("cifar10", "latents"):
        return  # need files: tests/data/test_cifar.py, tests/data/test_precompute.py
    data = construct(node, "data")
    (batch,) = take(data, 1)
    size = node["image_size"]
    further = ["original_size", "crop"] if name == "laion" else []
    assert list(batch) == ["image", "caption", "key", "visit", *further]
    assert all(batch[key].shape == (node["batch_size"], 2) for key in further)
    assert batch["image"].shape == (node["batch_size"], 3, size, size)
    assert batch["image"].dtype == torch.float32
    assert batch["image"].abs().max() <= 1.0
    assert [type(c) for c in batch["caption"]] == [str] * node["batch_size"]
    assert batch["key"].dtype == torch.int64
    assert same(batch, take(construct(node, "data"), 1)[0])
    assert len(data.validation_images()) > 0
    assert same(batch, pickle.loads(pickle.dumps(data)).batch(0))
