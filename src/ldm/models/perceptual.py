"""Perceptual distance: differences of VGG-16 features (Zhang et al. 2018, arXiv:1801.03924)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

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

        try:
            state = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise FileNotFoundError(
                f"the weights of VGG-16 cannot be had ({error}): run once with a network or give the file of "
                f"torchvision's weights (task.perceptual.weights)"
            ) from error
    elif Path(weights).is_file():
        state = torch.load(weights, weights_only=True, map_location="cpu")
    else:
        raise FileNotFoundError(
            f"weights must be 'imagenet', null or a file, got {weights!r} (task.perceptual.weights)"
        )
    return {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}


class PerceptualDistance(nn.Module):
    """Mean squared difference of channel-normalised VGG-16 features, summed over five depths.

    This is LPIPS with all its linear weights equal (Zhang et al. 2018, Eq. 1). The net is frozen; gradients
    reach the images only.

    Args:
        weights: "imagenet" (torchvision's, downloaded once), a file of them, or None for random weights.

    Raises: FileNotFoundError when the weights cannot be had; ValueError when they are of another net.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | None = "imagenet") -> None:
        super().__init__()
        self.features = _features()
        if weights is not None:
            try:
                self.features.load_state_dict(_weights(weights))
            except RuntimeError as error:
                raise ValueError(f"{weights!r} holds no VGG-16 (task.perceptual.weights)") from error
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
        return [h / (h.square().sum(1, keepdim=True) + 1e-10).sqrt() for h in (*maps, h)]

    def forward(
        self, image: Float[Tensor, "b 3 h w"], other: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """The distance of each pair of images in [-1, 1], at least 16 pixels high and wide."""
        pairs = zip(self._maps(image), self._maps(other), strict=True)
        distances = [(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]
        return torch.stack(distances).sum(0)
