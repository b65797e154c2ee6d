"""Images and captions as they are stored ahead of time: posterior moments and text embeddings."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ldm.data.batch import to_float
from ldm.models.protocols import TextEncoder
from ldm.utils.device import as_dtype
from ldm.utils.errors import UserError


class Unsound(ValueError):
    """A latent or an embedding that is not finite; `row` says which of the batch."""

    def __init__(self, row: int, text: str) -> None:
        super().__init__(text)
        self.row = row


@dataclass(frozen=True, eq=False, kw_only=True)
class Encoder:
    """The frozen nets of a diffusion model.

    Args:
        autoencoder: makes posteriors of images.
        text_encoder: makes embeddings of captions, and is not trained; None: captions are kept as they are.
        device: to compute on; the nets are there.
        dtype: of what is stored: "fp16", "bf16" or "fp32".
        precision: in which it is computed: "fp32" or "bf16", by autocast.
    """

    autoencoder: nn.Module
    text_encoder: TextEncoder | None
    device: torch.device
    dtype: str = "fp16"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        as_dtype(self.dtype)
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"precision must be fp32 or bf16, got {self.precision!r}")
        if self.text_encoder is not None and self.text_encoder.trainable:
            raise UserError(
                "text_encoder is trained with the backbone, so its embeddings change: leave it out, captions "
                "are kept"
            )

    @torch.inference_mode()
    def __call__(self, images: UInt8[Tensor, "b 3 h w"], captions: list[str]) -> list[dict[str, Tensor]]:
        """Tensors to store for each image: mean and std (c, h, w), tokens (l, d) and pooled (p,) if any.

        Raises: Unsound if something is not finite in the dtype.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            posterior = self.autoencoder.encode(to_float(images).to(self.device))  # type: ignore[operator]
            values = {"mean": posterior.mean, "std": (0.5 * posterior.logvar).exp()}
            if self.text_encoder is not None:
                cond = self.text_encoder.encode(captions)
                both = (("tokens", cond.tokens), ("pooled", cond.pooled))
                values |= {name: value for name, value in both if value is not None}
        stored = {name: self._stored(name, value) for name, value in values.items()}
        return [{name: value[i].clone() for name, value in stored.items()} for i in range(len(images))]

    def _stored(self, name: str, value: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """A batch in the dtype of the store, on the CPU."""
        stored = value.to(as_dtype(self.dtype)).cpu()
        bad = (~stored.isfinite().flatten(1).all(1)).nonzero()
        if len(bad):
            cause = "computed" if not bool(value.isfinite().all()) else f"stored as {self.dtype}"
            raise Unsound(int(bad[0, 0]), f"its {name} is NaN or infinite as {cause} (dtype, precision)")
        return stored
