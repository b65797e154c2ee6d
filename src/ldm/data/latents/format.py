"""One sample of precomputed latents as bytes: posterior, embedding of the caption, metadata."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ldm.checkpoints.serialization import about_of, packed, unpacked
from ldm.data.decode import BadSample, Size
from ldm.utils.errors import UserError

EXTENSION = "latent"  # of its part of a tar shard; the content is that of a safetensors file


@dataclass(frozen=True, kw_only=True)
class About:
    """Metadata of a stored latent.

    Args:
        cache: key of the `ldm.data.latents.manifest.Manifest` that it was made by.
        key: identity of the image's sample, by which all draws of training are made.
        size: height and width of the stored image.
        bad: why the image or its caption cannot be used; empty if they can.
    """

    cache: str
    key: int
    size: Size
    bad: str = ""


def pack(tensors: Mapping[str, Tensor], about: About) -> bytes:
    """The bytes of a sample.

    Args:
        tensors: mean and std (c, h, w) of the posterior before any scaling, and, of frozen text encoders,
            tokens (l, d) and pooled (p,); nothing for a bad sample.
        about: its metadata.
    """
    height, width = about.size
    facts: dict[str, str | int] = {"cache": about.cache, "key": about.key, "bad": about.bad}
    return packed(tensors, {**facts, "height": height, "width": width})


def about(data: bytes) -> About:
    """Metadata of a sample's bytes.

    Raises: ValueError if they are damaged.
    """
    facts = about_of(data)
    try:
        size = (int(facts["height"]), int(facts["width"]))
        cache, bad = (str(facts[name]) for name in ("cache", "bad"))
        return About(cache=cache, key=int(facts["key"]), size=size, bad=bad)
    except (KeyError, ValueError) as error:
        raise UserError(f"its header lacks or garbles {error}") from error


def unpack(data: bytes, cache: str) -> dict[str, Tensor]:
    """The tensors of a sample.

    Args:
        data: of `pack`.
        cache: the key that it must have.

    Raises: BadSample if it is damaged, or one whose image or caption could not be used; ValueError if it was
        made by another autoencoder, text encoder or transform.
    """
    try:
        tensors, facts = unpacked(data)
    except ValueError as error:
        raise BadSample("damaged latent") from error
    if facts.get("cache") != cache:
        raise UserError("it was made with other settings than latents.json says: precompute it again")
    if facts["bad"]:
        raise BadSample(str(facts["bad"]))
    return tensors
