"""Training checkpoints as models; the whole path with Lightning's files is in tests/cli/test_train.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm.checkpoints import load_model, save_model
from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.training import training_metadata
from ldm.models.lora import LoRA

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def run(stable_diffusion: Callable[..., LoadedModel], tmp_path: Path) -> tuple[Path, LoadedModel]:
    """A run's checkpoint, whose weights in training are those of the EMA plus one, beside its first stage."""
    model = stable_diffusion("sd1", 0)
    first = tmp_path / "autoencoder.safetensors"
    node = {"autoencoder": model.config["autoencoder"]}
    save_model(first, {"autoencoder": model.components["autoencoder"]}, node)
    state = {}
    for name in ("backbone", "text_encoder"):
        for key, value in model.components[name].state_dict().items():
            state[f"ema.{name}.{key}"], state[f"nets.{name}.{key}"] = value, value + 1.0
    path = tmp_path / "checkpoints" / "step_00000007" / "state.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": state, "ldm": training_metadata(model.config, first.name)}, path)
    return path, model


@pytest.mark.parametrize(("ema", "added"), [(True, 0.0), (False, 1.0)])
def test_ema_weights_are_taken_unless_refused(run: tuple[Path, LoadedModel], ema: bool, added: float):
    path, model = run
    loaded = load_model(path, ema=ema)
    assert loaded.config == model.config
    for name, component in model.components.items():
        for key, value in component.state_dict().items():
            expected = value if name == "autoencoder" else value + added
            assert torch.equal(loaded.components[name].state_dict()[key], expected)


def test_a_first_stage_that_is_gone_is_named(run: tuple[Path, LoadedModel]):
    (run[0].parents[2] / "autoencoder.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"first stage of .*state\.ckpt is not at .*autoencoder"):
        load_model(run[0])


def test_nets_that_fine_tuning_left_alone_come_from_its_base(run: tuple[Path, LoadedModel], tmp_path: Path):
    path, model = run
    base = tmp_path / "base.safetensors"
    save_model(base, model.components, model.config)
    saved = torch.load(path, weights_only=True)
    state = {k: v for k, v in saved["state_dict"].items() if "text_encoder" not in k}
    metadata = training_metadata(model.config, "autoencoder.safetensors", base=str(base))
    torch.save({"state_dict": state, "ldm": metadata}, path)
    loaded = load_model(path, ema=False).components
    for name, added in (("text_encoder", 0.0), ("backbone", 1.0)):
        for key, value in model.components[name].state_dict().items():
            assert torch.equal(loaded[name].state_dict()[key], value + added)
    base.unlink()
    with pytest.raises(FileNotFoundError, match=r"fine-tuned from .*base\.safetensors, which is gone"):
        load_model(path)


def test_a_checkpoint_of_adapters_is_its_base_with_their_average_merged(
    run: tuple[Path, LoadedModel], tmp_path: Path
):
    path, model = run
    base = tmp_path / "base.safetensors"
    save_model(base, model.components, model.config)
    net = model.components["backbone"]
    lora = LoRA(net, rank=2, alpha=1.0, targets=["to_k"])
    for p in lora.parameters():
        torch.nn.init.normal_(p)
    node = {"adapters": {"rank": 2, "alpha": 1.0}}
    state = {f"ema.backbone.{k}": v for k, v in lora.state_dict().items()}
    state |= {f"nets.backbone.{k}": torch.zeros_like(v) for k, v in lora.state_dict().items()}
    torch.save(
        {"state_dict": state, "ldm": training_metadata(model.config | node, None, base=str(base))}, path
    )
    merged, plain = (load_model(path, ema=ema) for ema in (True, False))
    assert merged.config == model.config
    for name, update in lora.updates().items():
        weight = net.get_submodule(name).weight
        expected = weight + update.weight(weight.shape)
        torch.testing.assert_close(merged.components["backbone"].get_submodule(name).weight, expected)
        assert torch.equal(plain.components["backbone"].get_submodule(name).weight, weight)
