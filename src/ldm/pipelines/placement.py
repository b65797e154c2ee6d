"""A pipeline's nets on their devices."""

import logging
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from ldm.generation import Sampler
from ldm.generation.offload import Offload, offload_of, place_of
from ldm.models.tiling import check_rows
from ldm.pipelines.parts import SamplerParts
from ldm.utils.device import as_dtype, pick_device
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

P = TypeVar("P", bound="Placed")

TILE_ROWS = 64  # a 1024 x 1024 image in 16 bands


class Placed(SamplerParts):
    """Moves, casts and offloads the nets, which other pipelines may share (`from_pipe`).

    Attributes:
        sampler: nets and settings; its device and dtype are where the nets are, whoever moved them.
    """

    @property
    def sampler(self) -> Sampler:
        """Nets and settings."""
        sampler: Sampler = self.__dict__["_sampler"]
        device = place_of(sampler.own.backbone) or sampler.device
        dtype = next((p.dtype for p in sampler.own.backbone.parameters()), sampler.dtype)
        if (device, dtype) != (sampler.device, sampler.dtype) or sampler.codec.dtype != dtype:
            sampler = replace(sampler, codec=replace(sampler.codec, dtype=dtype), device=device, dtype=dtype)
            self.__dict__["_sampler"] = sampler
        return sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        """Replaces nets or settings."""
        self.__dict__["_sampler"] = sampler

    @property
    def nets(self) -> list[nn.Module]:
        """All nets, those of a weaker model included."""
        return [self.autoencoder, *self.sampler.own, *(self.weak or ())]

    def to(
        self: P,
        device: str | int | torch.device | torch.dtype | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> P:
        """Moves the nets to a device or casts them; returns the pipeline. It ends offloading.

        Args:
            device: to move to; a dtype in its place casts, as `to` of torch does.
            dtype: to cast to; "auto" is the fastest that the device computes in.

        Raises: ValueError if the device does not exist.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        place = self.device if device is None else pick_device(device)
        wanted = self.dtype if dtype is None else as_dtype(dtype, place)
        for net in self.nets:
            if device is not None and (offload := offload_of(net)) is not None:
                offload.end()
            net.to(device=None if offload_of(net) else place, dtype=wanted).requires_grad_(False).eval()
        return self

    def enable_model_cpu_offload(self: P, device: str | int | torch.device = "auto") -> P:
        """Keeps the nets in the CPU's memory and brings one at a time to a device; returns the pipeline.

        The memory of the device is then that of the largest net instead of all. Images stay the same.

        Args:
            device: to compute on.
        """
        return self._offload(device, [])

    def enable_sequential_cpu_offload(self: P, device: str | int | torch.device = "auto") -> P:
        """As `enable_model_cpu_offload`, but brings single layers of the denoising net: slow, and smallest.

        Args:
            device: to compute on.
        """
        return self._offload(device, [self.backbone, *([self.weak.backbone] if self.weak else [])])

    def _offload(self: P, device: str | int | torch.device, by_layer: list[Any]) -> P:
        place = pick_device(device)
        if place.type == "cpu":
            log.warning("offloading saves nothing on the CPU, where the nets are: there is no other device")
        Offload(self.nets, place, by_layer)
        return self

    def enable_vae_slicing(self: P) -> P:
        """Encodes and decodes images one at a time; returns the pipeline."""
        self.sampler = replace(self.sampler, codec=replace(self.sampler.codec, slicing=True))
        return self

    def enable_vae_tiling(self: P, rows: int = TILE_ROWS) -> P:
        """Encodes and decodes in bands, exactly (`ldm.models.tiling`); returns the pipeline.

        Args:
            rows: height of the bands.

        Raises: ValueError for another autoencoder than the convolutional one.
        """
        if "tiling" not in self.autoencoder.supports:
            raise UserError(f"vae_tiling is not supported by {type(self.autoencoder).__name__}")
        check_rows(rows)
        self.sampler = replace(self.sampler, codec=replace(self.sampler.codec, tile_rows=rows))
        return self

    def release(self) -> None:
        """Moves an offloaded net that has computed back to the CPU."""
        if (offload := offload_of(self.backbone)) is not None:
            offload.release()
