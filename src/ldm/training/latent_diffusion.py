"""Lightning glue of a latent diffusion model: encode, drop captions, loss, EMA twins; Rombach et al. 2022."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.checkpoints.tensors import TRAINING
from ldm.diffusion import random
from ldm.diffusion.process import Diffusion
from ldm.diffusion.time_draws import LowDiscrepancy, TimeDraws
from ldm.generation import Sampler
from ldm.guidance.base import Backbone
from ldm.models.dropout import dropouts_of, give_keys
from ldm.models.lora import LoRA
from ldm.models.protocols import Autoencoder, TextEncoder
from ldm.training.encoder import Encoder
from ldm.training.loss_terms import LossTerm, Recorded, added
from ldm.training.optim import LRSchedule
from ldm.training.optimized_module import OptimizedModule
from ldm.training.power_ema import power_functions
from ldm.training.probe import DiffusionProbe
from ldm.training.sampling import sampler_of
from ldm.training.weights import WeightsFactory
from ldm.utils.ema import Horizon
from ldm.utils.errors import UserError


class LatentDiffusion(OptimizedModule):
    """Trains a backbone (and a trainable text encoder) to denoise latents of captioned images.

    Args:
        autoencoder: frozen first stage; kept outside the module tree, in no checkpoint.
        text_encoder: makes the text encoder; called in `configure_model`.
        backbone: makes the denoising net; called in `configure_model`.
        diffusion: schedule, prediction and weighting.
        time_sampling: maps uniform numbers to training times.
        time_draws: makes these numbers; None for the low-discrepancy ones.
        sampling: settings of sample grids: scheduler, timesteps, thresholding, num_inference_steps, guidance,
            guidance_scale.
        optimizer: maps parameters to an optimizer.
        lr_schedule: learning-rate factor of the images seen; None keeps the rate.
        batch_size: global batch size, images per step.
        caption_dropout: probability of training on the empty caption.
        ema_images: horizon of the EMA: the images over which it forgets to 1/e.
        power_ema: relative widths sigma_rel of further averages, over power functions; for `ldm-ema`.
        cache_latents: encode each (key, caption) once; only right when the image is a function of the two.
            Data that hold latents are encoded already.
        sample_posterior: draw the latent from the posterior rather than take its mean.
        image_size: height and width of the images, for sampling.
        activation_checkpointing: recompute the blocks' activations in the backward pass: less memory, a third
            more time.
        compile: compile the blocks, in place.
        adapters: makes adapters of the backbone, which alone are trained then; None trains the nets.
        loss_terms: added to the loss of each sample, by name.
        seed: of all draws.
    """

    stage = "latent diffusion"
    _knows_words = False  # True if the vocabulary of the text encoder comes with its weights

    def __init__(
        self,
        *,
        autoencoder: nn.Module,
        text_encoder: Callable[[], TextEncoder],
        backbone: Callable[[], nn.Module],
        diffusion: Diffusion,
        time_sampling: Callable[..., Tensor],
        sampling: dict[str, Any],
        optimizer: Callable[..., Optimizer],
        lr_schedule: LRSchedule | None,
        batch_size: int,
        caption_dropout: float = 0.1,
        ema_images: int = 32_000,
        power_ema: Sequence[float] = (),
        cache_latents: bool = False,
        sample_posterior: bool = True,
        image_size: int = 32,
        activation_checkpointing: bool = False,
        compile: bool = False,
        time_draws: TimeDraws | None = None,
        adapters: Callable[[nn.Module], LoRA] | None = None,
        loss_terms: Mapping[str, LossTerm] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, lr_schedule, batch_size)
        self.encoder = Encoder(autoencoder, caption_dropout, sample_posterior, cache_latents, seed)
        ema, powers = Horizon(images=ema_images), power_functions(power_ema)
        self.factory = WeightsFactory(
            text_encoder, backbone, adapters, ema, powers, activation_checkpointing, compile, seed
        )
        self.diffusion, self.time_sampling, self.sampling = diffusion, time_sampling, sampling
        self.time_draws = time_draws or LowDiscrepancy()
        self.image_size, self.seed = image_size, seed
        self.metadata: dict[str, str] | None = None  # of checkpoints: what model they are of
        self.loss_terms = tuple((loss_terms or {}).values())
        self.weak: tuple[Any, ...] | None = None  # nets of a weaker model, for sample grids

    def start_from(self, components: dict[str, nn.Module]) -> None:
        """Lets text encoder and backbone begin with the weights of those in `components`."""
        names = {"text_encoder", "backbone"} & components.keys()
        self.factory.initial.update({name: components[name] for name in names})
        self._knows_words = "text_encoder" in names

    def parameters_to_train(self) -> Iterator[nn.Parameter]:
        """Parameters of the nets, without their averages."""
        return self.nets.parameters()

    def configure_model(self) -> None:
        """Builds the nets and their averages once, from the run's seed."""
        if hasattr(self, "nets"):
            return
        self.weights = self.factory(self.device_mesh)
        self.nets, self.ema = self.weights.nets, self.weights.ema
        if self.weights.powers:
            self.powers = nn.ModuleList(self.weights.powers.values())
        self._dropouts = dropouts_of(self.nets)

    @property
    def autoencoder(self) -> nn.Module:
        """The frozen first stage."""
        return self.encoder.autoencoder

    @property
    def power_averages(self) -> dict[float, nn.ModuleDict]:
        """The averages over power functions, by their sigma_rel."""
        return self.weights.powers

    def text_encoder(self, of: nn.ModuleDict) -> TextEncoder:
        """The text encoder among the trained nets (or one of their averages), or the frozen one."""
        return self.weights.text_encoder(of)

    def backbone(self, of: nn.ModuleDict) -> Backbone:
        """The denoising net among the trained nets (or one of their averages)."""
        return self.weights.backbone(of)

    def on_fit_start(self) -> None:
        """Moves the frozen nets to the device, learns the vocabulary, readies the moving averages."""
        data = cast(Any, self.trainer).datamodule
        self.encoder.attach(data, self.text_encoder(self.nets), self.device)
        for net in (*self.weights.frozen, *(self.weak or ())):
            net.to(self.device)
        for nets in () if self._knows_words else (self.nets, *self.weights.twins):
            self.text_encoder(nets).learn_vocabulary(data.captions)
        self.averages = self.weights.averages()

    def times(self, key: Int64[Tensor, " b"], visit: int | Tensor) -> Float[Tensor, " b"]:
        """Training times of a visit."""
        return self.time_sampling(self.time_draws(self.seed, key, visit), self.diffusion.schedule)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """One batch: its loss and, detached, the loss of each sample with its time and key."""
        key, visit = batch["key"], batch["visit"]
        x0, cond = self.encoder(batch, self.text_encoder(self.nets))
        noise = random.normal(self.seed, "noise", key, visit, x0.shape[1:])
        t = self.times(key, visit)
        give_keys(self._dropouts, self.seed, key, visit)
        net = Recorded(self.backbone(self.nets), cond)
        losses = self.diffusion.loss(net, x0, noise, t)
        if self.loss_terms:
            losses = losses + added(self.loss_terms, self.diffusion, net, x0, noise, t)
        self.watch(losses)
        return {"loss": losses.mean(), "loss_per_sample": losses.detach(), "t": t, "key": key}

    @torch.no_grad()
    def validation_losses(
        self,
        samples: dict[str, Any],
        u: Float[Tensor, " b"],
        draw: Int64[Tensor, " b"],
        seed: int,
    ) -> Float[Tensor, " b"]:
        """Losses of the EMA weights, without caption dropout, for numbered draws.

        Args:
            samples: as in a batch of the data, one for each draw.
            u: uniform numbers that make the times as in training.
            draw: numbers of the draws; latents and noise are functions of (seed, draw).
            seed: of the draws.
        """
        x0, cond = self.encoder.held_out(samples, self.text_encoder(self.ema), draw, seed)
        noise = random.normal(seed, "validation_noise", draw, 0, x0.shape[1:])
        t = self.time_sampling(u, self.diffusion.schedule)
        net = self.backbone(self.ema)
        return self.diffusion.loss(lambda x_t, s: net(x_t, s, cond), x0, noise, t)

    def flops_per_image(self) -> int:
        """FLOPs of training on an image: thrice a forward of the nets trained, once one of the frozen.

        Beside adapters the net's own weights get no gradients: twice a forward, without the adapters.
        """
        autoencoder = cast(Autoencoder, self.autoencoder)
        size = self.image_size // autoencoder.downscale
        shape = (1, autoencoder.latent_channels, size, size)
        embedded = self.encoder.empty is not None
        return self.factory.flops(self.weights, shape, embedded) + self.encoder.flops(self.image_size)

    def probe(self, image_size: int, precomputed: bool) -> DiffusionProbe:
        """The view of the planner (`ldm.training.probe`)."""
        return DiffusionProbe(self, image_size, precomputed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what is needed to sample from the checkpoint, and which averages it holds."""
        checkpoint["power_ema"] = list(self.power_averages)
        if self.metadata is not None:
            checkpoint[TRAINING] = self.metadata

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses other averages than those of the checkpoint: they are of all the training so far."""
        kept, asked = checkpoint.get("power_ema", []), list(self.power_averages)
        if kept != asked:
            raise UserError(
                f"power_ema cannot change while a run goes on: the checkpoint has {kept}, got {asked}"
            )

    @property
    def sampler(self) -> Sampler:
        """A sampler of the EMA weights; all ranks have to call it together."""
        return sampler_of(self)

    def components(self) -> dict[str, nn.Module]:
        """The nets of a finished model, with EMA weights: autoencoder, text_encoder, backbone.

        A collective operation: sharded nets come in one piece on the first rank. Of a run that trains
        adapters the backbone are these.
        """
        return {"autoencoder": self.autoencoder, **self.factory.components(self.weights)}
