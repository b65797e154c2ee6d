"""Nets: U-Net, autoencoders, text encoders, discriminator; each imported when it is first used."""

from typing import TYPE_CHECKING

from ldm.utils.lazy import lazy

if TYPE_CHECKING:
    from ldm.models.clip import ClipTextEncoder as ClipTextEncoder
    from ldm.models.discriminator import PatchDiscriminator as PatchDiscriminator
    from ldm.models.identity import IdentityAutoencoder as IdentityAutoencoder
    from ldm.models.lora import LoRA as LoRA
    from ldm.models.perceptual import PerceptualDistance as PerceptualDistance
    from ldm.models.text_encoder import BaseTextEncoder as BaseTextEncoder
    from ldm.models.text_encoder import ClassEncoder as ClassEncoder
    from ldm.models.text_encoder import NullTextEncoder as NullTextEncoder
    from ldm.models.text_encoder import TinyTextEncoder as TinyTextEncoder
    from ldm.models.unet import UNet as UNet
    from ldm.models.vae import AutoencoderKL as AutoencoderKL

__all__ = [
    "AutoencoderKL",
    "BaseTextEncoder",
    "ClassEncoder",
    "ClipTextEncoder",
    "IdentityAutoencoder",
    "LoRA",
    "NullTextEncoder",
    "PatchDiscriminator",
    "PerceptualDistance",
    "TinyTextEncoder",
    "UNet",
]

__getattr__, __dir__ = lazy(
    "ldm.models",
    {
        "AutoencoderKL": "ldm.models.vae",
        "BaseTextEncoder": "ldm.models.text_encoder",
        "ClassEncoder": "ldm.models.text_encoder",
        "ClipTextEncoder": "ldm.models.clip",
        "IdentityAutoencoder": "ldm.models.identity",
        "LoRA": "ldm.models.lora",
        "NullTextEncoder": "ldm.models.text_encoder",
        "PatchDiscriminator": "ldm.models.discriminator",
        "PerceptualDistance": "ldm.models.perceptual",
        "TinyTextEncoder": "ldm.models.text_encoder",
        "UNet": "ldm.models.unet",
    },
)
