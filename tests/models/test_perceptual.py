from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from ldm.models.perceptual import PerceptualDistance

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    torch.manual_seed(0)
    return PerceptualDistance(weights=None, linear=None)


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
    ours = PerceptualDistance(weights=str(tmp_path / "vgg.pth"), linear=None)
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((image + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        maps = ours._maps(image)
        for found, end in ((maps[0], 4), (maps[4], 30)):
            h = features[:end](x)
            assert torch.allclose(found, h / (h.square().sum(1, keepdim=True) + 1e-8).sqrt(), atol=1e-6)


def test_weights_that_cannot_be_had_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    models = pytest.importorskip("torchvision.models")

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(models.VGG16_Weights, "get_state_dict", offline)
    with pytest.raises(
        FileNotFoundError,
        match=r"cannot be had .*no network.*vgg16-397923af\.pth ",
    ):
        PerceptualDistance()
    with pytest.raises(FileNotFoundError, match=r"'absent\.pth'"):
        PerceptualDistance("absent.pth")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds no VGG-16"):
        PerceptualDistance(str(tmp_path / "other.pth"))


def test_distances_are_those_of_torchmetrics(tmp_path: Path):
    """The learned weights as they come with torchmetrics, VGG-16 of random weights on both sides."""
    lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
    torch.manual_seed(0)
    theirs = lpips._LPIPS(pretrained=True, net="vgg", pnet_rand=True)
    names = [name for part in range(1, 6) for name in getattr(theirs.net, f"slice{part}").state_dict()]
    values = [v for part in range(1, 6) for v in getattr(theirs.net, f"slice{part}").state_dict().values()]
    torch.save({f"features.{name}": v for name, v in zip(names, values, strict=True)}, tmp_path / "vgg16.pth")
    ours = PerceptualDistance(weights=str(tmp_path / "vgg16.pth"))
    a, b = torch.rand(3, 3, 32, 48) * 2 - 1, torch.rand(3, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(ours(a, b), theirs(a, b).flatten(), rtol=1e-5, atol=1e-7)
    file = Path(lpips.__file__).parent / "lpips_models" / "vgg.pth"
    other = PerceptualDistance(weights=str(tmp_path / "vgg16.pth"), linear=str(file))
    assert torch.equal(ours(a, b), other(a, b))


def test_linear_weights_that_cannot_be_had_are_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match="no linear weights of LPIPS"):
        PerceptualDistance(None, str(tmp_path / "half.pth"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"got 'lpips'"):
        PerceptualDistance(None)
