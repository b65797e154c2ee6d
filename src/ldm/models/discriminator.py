"""PatchGAN discriminator (Isola et al. 2017) as used to train Stable Diffusion's autoencoder."""

from jaxtyping import Float
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Strided 4x4 convolutions that judge each patch of an image real (> 0) or reconstructed (< 0).

    GroupNorm takes the place of the original's BatchNorm, so that a verdict does not depend on the batch.
    Weights of convolutions start as N(0, 0.02^2), those of norms as N(1, 0.02^2) (Radford et al. 2016,
    arXiv:1511.06434, section 3; Isola et al. 2017, arXiv:1611.07004, App. 6.2).

    Args:
        in_channels: channels of the image.
        width: channels after the first layer; doubled per layer up to eight times.
        layers: strided layers after the first.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        modules: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        c = width
        for i in range(1, layers + 1):
            c_out = width * min(2**i, 8)
            stride = 2 if i < layers else 1
            modules += [
                nn.Conv2d(c, c_out, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(8, c_out),
                nn.LeakyReLU(0.2),
            ]
            c = c_out
        modules.append(nn.Conv2d(c, 1, 4, stride=1, padding=1))
        self.net = nn.Sequential(*modules)
        for module in modules:
            if isinstance(module, nn.Conv2d | nn.GroupNorm):
                nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.GroupNorm) else 0.0, 0.02)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h2 w2"]:
        """One logit per patch."""
        return self.net(image)
