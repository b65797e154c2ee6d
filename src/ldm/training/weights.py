"""The nets in training, the averages that follow them and the adapters between them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from ldm.diffusion.conditioning import Conditioning
from ldm.guidance.base import Backbone
from ldm.models.lora import AdaptedNet, LoRA
from ldm.models.protocols import TextEncoder
from ldm.training.distributed.sharding import arrange, whole
from ldm.training.flops import flops
from ldm.training.power_ema import PowerFunction
from ldm.utils.ema import Decay, MovingAverage, twin_of


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Nets in training with their averages, and the frozen nets beside them.

    Not a module: what checkpoints hold, and by which names, is up to the module that registers `nets`, `ema`
    and `powers`.

    Args:
        nets: trained: the backbone, or its adapters, and a trainable text encoder.
        ema: their exponential moving average.
        powers: their averages over power functions, by sigma_rel.
        decays: of `ema`, then of `powers`.
        frozen_text: the text encoder if it is not trained.
        adapted: the frozen backbone if adapters are trained.
    """

    nets: nn.ModuleDict
    ema: nn.ModuleDict
    powers: dict[float, nn.ModuleDict]
    decays: list[Decay]
    frozen_text: TextEncoder | None
    adapted: AdaptedNet | None

    def text_encoder(self, nets: nn.ModuleDict) -> TextEncoder:
        """The text encoder among the nets or one of their averages, or the frozen one."""
        text: Any = nets["text_encoder"] if self.frozen_text is None else self.frozen_text
        return text

    def backbone(self, nets: nn.ModuleDict) -> Backbone:
        """The denoising net among the nets or one of their averages, or the frozen one so adapted."""
        return nets["backbone"] if self.adapted is None else self.adapted.using(cast(LoRA, nets["backbone"]))

    @property
    def twins(self) -> list[nn.ModuleDict]:
        """All averages: the EMA, then those over power functions."""
        return [self.ema, *self.powers.values()]

    @property
    def frozen(self) -> list[nn.Module]:
        """Nets that are not trained and in no checkpoint of the training."""
        text = [] if self.frozen_text is None else [cast(nn.Module, self.frozen_text)]
        return text if self.adapted is None else [*text, self.adapted.net]

    def averages(self) -> list[MovingAverage]:
        """The averages as functions of the images seen; the nets must be on their device and sharded."""
        return [MovingAverage(twin, self.nets, d) for twin, d in zip(self.twins, self.decays, strict=True)]


@dataclass(frozen=True)
class WeightsFactory:
    """Builds nets and averages from a seed, possibly with the weights of other nets.

    Args:
        text_encoder: builds the text encoder.
        backbone: builds the denoising net.
        adapters: builds adapters of a backbone, which alone are trained then; None trains the nets.
        ema: decay of the exponential moving average.
        powers: decays of further averages.
        activation_checkpointing: recompute the blocks' activations in the backward pass.
        compile: compile the blocks, in place.
        seed: of the initial weights.
        initial: nets whose weights replace the initial ones, by name; emptied when they are used.
    """

    text_encoder: Callable[[], TextEncoder]
    backbone: Callable[[], nn.Module]
    adapters: Callable[[nn.Module], LoRA] | None
    ema: Decay
    powers: list[PowerFunction]
    activation_checkpointing: bool
    compile: bool
    seed: int
    initial: dict[str, nn.Module] = field(default_factory=dict)

    def __call__(self, mesh: DeviceMesh | None) -> Weights:
        """Nets and averages, sharded over a mesh of ranks if there is one."""
        adapted = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            text, backbone = self.text_encoder(), self.backbone()
            encoder = cast(nn.Module, text)
            for net, name in ((encoder, "text_encoder"), (backbone, "backbone")):
                if name in self.initial:
                    net.load_state_dict(self.initial.pop(name).state_dict())
            trains_text = text.trainable and self.adapters is None
            if self.adapters is not None:
                adapters = self.adapters(backbone)
                adapted, backbone = AdaptedNet(backbone, adapters), adapters
        trained = {"text_encoder": encoder} if trains_text else {}
        nets = nn.ModuleDict({**trained, "backbone": backbone})
        weights = Weights(
            nets=nets,
            ema=twin_of(nets),
            powers={power.sigma_rel: twin_of(nets) for power in self.powers},
            decays=[self.ema, *self.powers],
            frozen_text=None if trains_text else cast(TextEncoder, encoder.requires_grad_(False).eval()),
            adapted=adapted,
        )
        arranged = nets if adapted is None else nn.ModuleDict({"backbone": adapted.net})
        arrange(arranged, weights.twins, mesh, self.activation_checkpointing, self.compile)
        return weights

    def components(self, weights: Weights) -> dict[str, nn.Module]:
        """Text encoder and backbone (or adapters) with the weights of the EMA.

        A collective operation: sharded nets are gathered in one piece on the first rank.
        """
        make_text = cast(Callable[[], nn.Module], self.text_encoder)
        text = whole(cast(nn.Module, weights.text_encoder(weights.ema)), make_text)
        return {"text_encoder": text, "backbone": whole(weights.ema["backbone"], self.backbone)}

    def flops(self, weights: Weights, shape: tuple[int, ...], embedded: bool) -> int:
        """FLOPs of training on an image: thrice a forward of the nets trained, once one of the frozen.

        Beside adapters the net's own weights get no gradients: twice a forward, without the adapters.

        Args:
            weights: of the training.
            shape: of the latents of an image, (1, c, h, w).
            embedded: the captions' embeddings come with the data.
        """

        def words() -> Conditioning:
            return self.text_encoder().encode(["a word"])

        def denoise() -> None:
            self.backbone()(torch.zeros(shape), torch.zeros(1), words())

        text, trains_text = flops(words), weights.frozen_text is None
        trained = flops(denoise) - (0 if trains_text else text)
        frozen = 0 if trains_text or embedded else text
        return (3 if weights.adapted is None else 2) * trained + frozen
