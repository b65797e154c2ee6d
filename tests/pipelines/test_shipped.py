from pathlib import Path

import pytest

from ldm import Text2ImagePipeline
from ldm.pipelines.shipped import shipped_model


def test_the_shipped_file_fits_16_megabytes():
    with shipped_model() as path:
        assert path.suffix == ".safetensors"
        assert 0 < path.stat().st_size < 16_000_000


def test_no_shipped_model_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="none comes with this installation"):
        Text2ImagePipeline.from_pretrained()
