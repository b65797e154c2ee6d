"""Snapshots of averages: which stay, what is in the files, what is made of them."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.native import save_model
from ldm.checkpoints.snapshots import (
    ENTRY,
    HEADER,
    SnapshotStore,
    Thinning,
    read_snapshots,
    room_within,
    summed_model,
)

ABOUT = {"config": {"backbone": {"_target_": "ldm.models.unet.UNet"}}, "autoencoder": ""}


def kept_after(thinning: Thinning, batch: int, last: int, present: set[int], start: int = 0) -> set[int]:
    """What stays when a run goes from one step to another, the last step's snapshot with it."""
    present = {images for images in present if images <= start * batch}
    for step in range(start + 1, last + 1):
        images = step * batch
        if thinning.number(images) or step == last:
            present.add(images)
            present = {old for old in present if thinning.keeps(old, images)}
            assert len(present) <= thinning.room
    return present


@pytest.mark.parametrize("seed", range(8))
def test_what_stays_does_not_depend_on_stops(seed: int) -> None:
    """Runs stopped anywhere, with a snapshot there, that go on from any earlier step keep the same files."""
    rng = random.Random(seed)
    batch, every = rng.choice([(12, 120), (12, 100), (32, 100), (7, 7), (64, 50)])
    thinning = Thinning(every_n_images=every, batch_size=batch, room=rng.randint(3, 9))
    for _ in range(20):
        last = rng.randint(1, 300)
        alone = kept_after(thinning, batch, last, set())
        at, stopped = 0, set[int]()
        for _ in range(4):
            stop = rng.randint(at, last)
            stopped = kept_after(thinning, batch, stop, stopped, at)
            at = rng.randint(0, stop)
            # a checkpoint that is gone back to was made before anything that came later was thinned away
            stopped = {images for images in stopped if images <= at * batch}
        assert kept_after(thinning, batch, last, stopped, at) == alone


def test_first_and_last_stay_and_the_others_are_evenly_spread() -> None:
    thinning = Thinning(every_n_images=100, batch_size=10, room=6)
    assert kept_after(thinning, 10, 62, set()) == {100, 200, 400, 600, 620}
    assert kept_after(thinning, 10, 170, set()) == {100, 400, 800, 1200, 1600, 1700}


@pytest.mark.parametrize(("batch", "every"), [(12, 120), (32, 100), (64, 50)])
def test_at_least_half_the_room_is_used(batch: int, every: int) -> None:
    for room in (3, 8, 15):
        thinning = Thinning(every_n_images=every, batch_size=batch, room=room)
        last = (room + 5) * max(every, batch) * 7 // batch
        assert len(kept_after(thinning, batch, last, set())) >= room / 2 - 1


def test_files_are_equal_bit_for_bit_and_fit_the_bound(tmp_path: Path) -> None:
    x = {"backbone.a": torch.randn(3, 4).half(), "text_encoder.vocabulary": torch.arange(3)}
    y = {name: tensor.clone() for name, tensor in x.items()}
    files = [
        SnapshotStore(tmp_path / name).add(16, {0.05: x, 0.1: y}, ABOUT).read_bytes() for name in ("a", "b")
    ]
    assert files[0] == files[1]
    assert len(files[0]) <= HEADER + 2 * sum(ENTRY + z.numel() * z.element_size() for z in x.values())


def test_a_budget_is_that_of_all_files_and_one_being_written() -> None:
    tensors = [torch.empty(10**6, dtype=torch.float16, device="meta")]
    size = HEADER + ENTRY + 2 * 10**6
    assert room_within(7.5 * size, tensors) == 6
    with pytest.raises(ValueError, match=r"at least 0\.00813, 4 snapshots of 0\.00203 GB, got 0\.001"):
        room_within(1e6, tensors)


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    x = {"backbone.a": torch.tensor([70_000.0]).half()}
    with pytest.raises(ValueError, match=r"0\.05/backbone\.a holds NaN or infinite values in torch\.float16"):
        SnapshotStore(tmp_path).add(16, {0.05: x}, ABOUT)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_something_else_is_refused(
    tmp_path: Path, stable_diffusion: Callable[..., LoadedModel]
) -> None:
    with pytest.raises(FileNotFoundError, match=r"no snapshots in .*ema: train with averages=power"):
        read_snapshots(tmp_path)
    (tmp_path / "ema").mkdir()
    path = SnapshotStore(tmp_path / "ema").path(16)
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        read_snapshots(tmp_path)
    model = stable_diffusion("sd1", 0)
    save_model(path, {"autoencoder": model.components["autoencoder"]}, model.config)
    with pytest.raises(ValueError, match="is no snapshot of averages"):
        read_snapshots(tmp_path)


@pytest.fixture
def run(
    stable_diffusion: Callable[..., LoadedModel], tmp_path: Path
) -> tuple[Path, LoadedModel, list[dict[float, dict[str, torch.Tensor]]]]:
    """A run with two snapshots of two averages each, random numbers all, and its first stage."""
    model = stable_diffusion("sd1", 0)
    node = {"autoencoder": model.config["autoencoder"]}
    save_model(tmp_path / "first.safetensors", {"autoencoder": model.components["autoencoder"]}, node)
    about = {"config": model.config, "autoencoder": "first.safetensors"}
    generator, moments = torch.Generator().manual_seed(0), []
    for images in (10, 20):
        averages = {
            width: {
                f"{name}.{key}": torch.randn(x.shape, generator=generator).half()
                for name in ("backbone", "text_encoder")
                for key, x in model.components[name].state_dict().items()
            }
            for width in (0.05, 0.1)
        }
        SnapshotStore(tmp_path / "ema").add(images, averages, about)
        moments.append(averages)
    return tmp_path, model, moments


def test_a_sum_of_averages_is_a_model(run) -> None:
    folder, model, moments = run
    first, second = read_snapshots(folder)
    assert (first.images, second.images, first.sigma_rel) == (10, 20, (0.05, 0.1))
    made = summed_model(folder, [(first, 0.1, -0.5), (second, 0.05, 1.5)])
    assert made.config == model.config
    for name, component in made.components.items():
        for key, x in component.state_dict().items():
            if name == "autoencoder":
                assert torch.equal(x, model.components[name].state_dict()[key])
            else:
                a, b = (m[w][f"{name}.{key}"].double() for m, w in zip(moments, (0.1, 0.05), strict=True))
                assert torch.equal(x, (-0.5 * a + 1.5 * b).float())


def test_frozen_nets_that_no_file_holds_are_built_from_the_config(
    tmp_path: Path, stable_diffusion: Callable[..., LoadedModel]
) -> None:
    model = stable_diffusion("sd1", 0)
    nodes = {
        "autoencoder": {"_target_": "ldm.models.identity.IdentityAutoencoder"},
        "text_encoder": {"_target_": "ldm.models.text_encoder.NullTextEncoder"},
    }
    average = {f"backbone.{key}": x for key, x in model.components["backbone"].state_dict().items()}
    about = {"config": model.config | nodes, "autoencoder": ""}
    SnapshotStore(tmp_path / "ema").add(10, {0.05: average}, about)
    made = summed_model(tmp_path, [(read_snapshots(tmp_path)[0], 0.05, 1.0)])
    assert set(made.components) == {"autoencoder", "text_encoder", "backbone"}
    for key, x in made.components["backbone"].state_dict().items():
        assert torch.equal(x, average[f"backbone.{key}"])


def test_a_first_stage_that_is_gone_is_named(run) -> None:
    (run[0] / "first.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"the first stage of .* is not at .*first\.safetensors"):
        summed_model(run[0], [(read_snapshots(run[0])[0], 0.1, 1.0)])


def test_frozen_nets_of_a_fine_tuned_model_are_those_of_its_base(
    tmp_path: Path, stable_diffusion: Callable[..., LoadedModel]
) -> None:
    model = stable_diffusion("sd1", 0)
    save_model(tmp_path / "base.safetensors", model.components, model.config)
    average = {f"backbone.{key}": x for key, x in model.components["backbone"].state_dict().items()}
    about = {"config": model.config, "autoencoder": "", "base": str(tmp_path / "base.safetensors")}
    SnapshotStore(tmp_path / "ema").add(10, {0.05: average}, about)
    made = summed_model(tmp_path, [(read_snapshots(tmp_path)[0], 0.05, 1.0)])
    for name in ("text_encoder", "autoencoder"):
        for key, x in made.components[name].state_dict().items():
            assert torch.equal(x, model.components[name].state_dict()[key])
