from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from ldm.models.perceptual import PerceptualDistance

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    torch.manual_seed(0)
    return PerceptualDistance(weights=None)


def test_distance_is_zero_on_the_diagonal_symmetric_and_positive(distance: PerceptualDistance):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1 for _ in range(2))
    assert torch.equal(distance(a, a), torch.zeros(2))
    assert torch.allclose(distance(a, b), distance(b, a))
    assert (distance(a, b) > 0).all()


def test_gradients_reach_the_image_only(distance: PerceptualDistance):
    a, b = torch.zeros(1, 3, 16, 16, requires_grad=True), torch.ones(1, 3, 16, 16)
    distance(a, b).sum().backward()
    assert a.grad.isfinite().all()
    assert a.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in distance.parameters())
    assert not distance.train().training


def test_features_are_those_of_torchvision(tmp_path: Path):
    """A file of torchvision's weights is read, and the first and last maps are its relu1_2 and relu5_3."""
    torchvision = pytest.importorskip("torchvision")
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    torch.save({f"features.{k}": v for k, v in features.state_dict().items()}, tmp_path / "vgg.pth")
    ours = PerceptualDistance(weights=str(tmp_path / "vgg.pth"))
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((image + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        maps = ours._maps(image)
        for found, end in ((maps[0], 4), (maps[4], 30)):
            h = features[:end](x)
            assert torch.allclose(found, h / (h.square().sum(1, keepdim=True) + 1e-10).sqrt(), atol=1e-6)


def test_weights_that_cannot_be_had_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    models = pytest.importorskip("torchvision.models")

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(models.VGG16_Weights, "get_state_dict", offline)
    with pytest.raises(
        FileNotFoundError, match=r"cannot be had .*no network.* \(task\.perceptual\.weights\)"
    ):
        PerceptualDistance()
    with pytest.raises(FileNotFoundError, match=r"'absent\.pth' \(task\.perceptual\.weights\)"):
        PerceptualDistance("absent.pth")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds no VGG-16"):
        PerceptualDistance(str(tmp_path / "other.pth"))
