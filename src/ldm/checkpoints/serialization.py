"""Small tensors as bytes in the safetensors format, and the fingerprint of a net's weights."""

import hashlib
import json
import zlib
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ldm.utils.errors import UserError

HEAD = 8  # bytes that say how long the header is
ABOUT, CHECKSUM = "about", "crc32"
Plain = str | int


def packed(tensors: Mapping[str, Tensor], about: Mapping[str, Plain]) -> bytes:
    """A safetensors file as bytes, always the same for the same values, with a checksum of all of them.

    Args:
        tensors: on the CPU.
        about: what they are, as metadata.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    checksum = _checksum(about, save(contiguous))  # metadata does not change the bytes of the tensors
    text = json.dumps({**about, CHECKSUM: checksum}, sort_keys=True)
    return save(contiguous, {ABOUT: text})  # several entries would come in any order


def about_of(data: bytes) -> dict[str, Plain]:
    """The metadata given to `packed`; tensors are not read.

    Raises: ValueError if the header is damaged.
    """
    return {name: value for name, value in _metadata(data).items() if name != CHECKSUM}


def unpacked(data: bytes) -> tuple[dict[str, Tensor], dict[str, Plain]]:
    """The tensors and metadata given to `packed`.

    Raises: ValueError if a value is not as it was.
    """
    about = _metadata(data)
    if about.pop(CHECKSUM, None) != _checksum(about, data):
        raise UserError("its checksum is another")
    try:
        return load(data), about
    except SafetensorError as error:
        raise UserError(f"no whole safetensors: {error}") from error


def _metadata(data: bytes) -> dict[str, Plain]:
    size = int.from_bytes(data[:HEAD], "little")
    if not 0 < size <= len(data) - HEAD:
        raise UserError("its header is cut short")
    try:
        found = json.loads(json.loads(data[HEAD : HEAD + size])["__metadata__"][ABOUT])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("its header is damaged") from error
    if not isinstance(found, dict):
        raise UserError("its header is damaged")
    return found


def _checksum(about: Mapping[str, Plain], data: bytes) -> int:
    """CRC-32 of the metadata and of the bytes of the tensors in a file."""
    tensors = memoryview(data)[HEAD + int.from_bytes(data[:HEAD], "little") :]
    return zlib.crc32(tensors, zlib.crc32(json.dumps(dict(about), sort_keys=True).encode()))


@torch.no_grad()
def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and values of all parameters and persistent buffers.

    Floating values count as float32, so weights that were kept in half precision are the same on any device
    and in any precision that holds them.
    """
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)}\n".encode())
        array = (value.float() if value.is_floating_point() else value).cpu().contiguous().numpy()
        found.update(array.tobytes())
    return found.hexdigest()
