"""What people have on their disks, and how it is told apart."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

from ldm.checkpoints import load_model
from ldm.checkpoints.assemble import LoadedModel

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_folder_without_an_index_and_a_path_to_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match=r"is no folder of diffusers: it has no model_index\.json"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model file at .*absent"):
        load_model(tmp_path / "absent")


def test_a_hub_id_without_a_network_is_one_clear_error():
    with pytest.raises(
        FileNotFoundError, match=r"no file or folder owner/model, and it could not be had from the hub \("
    ):
        load_model("owner/model")


def test_a_hub_id_with_a_network_is_downloaded(
    weights: ModuleType, folder: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub

    asked: list[str] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.append(name) or str(folder)
    )
    assert torch.equal(weights.weight(load_model("owner/model")), weights.weight(model))
    assert asked == ["owner/model"]
