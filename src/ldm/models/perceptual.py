"""LPIPS, the perceptual distance: differences of VGG-16 features (Zhang et al. 2018, arXiv:1801.03924)."""

import importlib.util
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.utils.errors import UserError

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for pixels in [0, 1]


def _features() -> nn.Sequential:
    """VGG-16's convolutions without the last pooling, numbered as torchvision's (Simonyan 2015)."""
    layers: list[nn.Module] = []
    c = 3
    for i, widths in enumerate(STAGES):
        if i:
            layers.append(nn.MaxPool2d(2))
        for width in widths:
            layers += [nn.Conv2d(c, width, 3, padding=1), nn.ReLU()]
            c = width
    return nn.Sequential(*layers)


def _weights(weights: str) -> dict[str, Tensor]:
    """The features' state from torchvision's weights or from a file of them."""
    if weights == "imagenet":
        from torchvision.models import VGG16_Weights

        known = VGG16_Weights.IMAGENET1K_V1
        try:
            state = known.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            place = Path(torch.hub.get_dir()) / "checkpoints" / known.url.rpartition("/")[2]
            raise FileNotFoundError(
                f"the weights of VGG-16 cannot be had ({error}): put {known.url} at {place}, give its file "
                f"as weights, or do without the perceptual distance"
            ) from error
    elif Path(weights).is_file():
        state = torch.load(weights, weights_only=True, map_location="cpu")
    else:
        raise FileNotFoundError(f"weights must be 'imagenet', null or a file, got {weights!r}")
    return {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}


def _linear(linear: str) -> list[Tensor]:
    """The learned weight of each channel, by stage, from an installed package or a file of LPIPS 0.1."""
    places = [Path(linear)]
    if linear == "lpips":  # packages that carry the file; they are looked up, not imported
        found = {name: importlib.util.find_spec(name) for name in ("torchmetrics", "lpips")}
        inside = {"torchmetrics": "functional/image/lpips_models/vgg.pth", "lpips": "weights/v0.1/vgg.pth"}
        places = [Path(s.origin).parent / inside[n] for n, s in found.items() if s and s.origin]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"the linear weights of LPIPS are not there: install torchmetrics or lpips, give a file such as "
            f"their vgg.pth, or null for equal weights, got {linear!r}"
        )
    state = torch.load(path, weights_only=True, map_location="cpu")
    names = [f"lin{i}.model.1.weight" for i in range(len(STAGES))]
    if any(n not in state or state[n].numel() != w[-1] for n, w in zip(names, STAGES, strict=True)):
        raise UserError(f"{path} holds no linear weights of LPIPS for VGG-16")
    return [state[name].flatten() for name in names]


class PerceptualDistance(nn.Module):
    """LPIPS: squared differences of channel-normalised VGG-16 features, weighted and summed over five depths.

    With learned weights of the channels this is LPIPS 0.1 (Zhang et al. 2018, Eq. 1); with equal ones, all 1,
    what the paper calls the baseline. The net is frozen; gradients reach the images only.

    Args:
        weights: "imagenet" (torchvision's, downloaded once), a file of them, or None for random weights.
        linear: weights of the channels: "lpips" (those in an installed torchmetrics or lpips), a file of
            them, or None for equal ones.

    Raises: FileNotFoundError when the weights cannot be had; ValueError when they are of another net.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | None = "imagenet", linear: str | None = "lpips") -> None:
        super().__init__()
        self.features = _features()
        if weights is not None:
            try:
                self.features.load_state_dict(_weights(weights))
            except RuntimeError as error:
                raise ValueError(f"{weights!r} holds no VGG-16") from error
        channels = [torch.ones(w[-1]) for w in STAGES] if linear is None else _linear(linear)
        for i, weight in enumerate(channels):
            self.register_buffer(f"linear{i}", weight, persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Stays in evaluation mode."""
        return super().train(False)

    def _maps(self, image: Tensor) -> list[Tensor]:
        """Features at the end of each stage, of unit length in each position."""
        h, maps = ((image + 1.0) / 2.0 - self.mean) / self.std, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(h)
            h = layer(h)
        return [h / (h.square().sum(1, keepdim=True) + 1e-8).sqrt() for h in (*maps, h)]

    def forward(
        self, image: Float[Tensor, "b 3 h w"], other: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """The distance of each pair of images in [-1, 1], at least 16 pixels high and wide."""
        pairs = zip(self._maps(image), self._maps(other), strict=True)
        distances = [
            torch.einsum("bchw,c->bhw", (a - b).square(), getattr(self, f"linear{i}")).mean((1, 2))
            for i, (a, b) in enumerate(pairs)
        ]
        return torch.stack(distances).sum(0)
