"""What people have on their disks, and how it is told apart."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

from ldm.checkpoints import load_model
from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.loader import MOVED

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


@pytest.mark.parametrize("gone", [False, True])
def test_a_hub_id_that_has_moved_is_read_where_it_is_now(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gone: bool
):
    """Without a network, the old id may still be in the cache."""
    import huggingface_hub

    asked: list[str] = []

    def download(name: str, **options: object) -> str:
        asked.append(name)
        if gone and name.startswith("stable-diffusion-v1-5/"):
            raise OSError("no network")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    old, now = "runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"
    load_model(old)
    assert asked == ([now, old] if gone else [now])
    assert f"{old} has moved on the hub: {now} is read" in caplog.text
    assert not set(MOVED) & set(MOVED.values())
