"""Lightning glue of a latent diffusion model: encode, drop captions, loss, EMA twins; Rombach et al. 2022."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.checkpoints.tensors import TRAINING
from ldm.diffusion import random
from ldm.diffusion.conditioning import Conditioning
from ldm.diffusion.process import Diffusion
from ldm.diffusion.time_draws import LowDiscrepancy, TimeDraws
from ldm.generation import Sampler
from ldm.guidance import drop_captions, drop_embeddings
from ldm.guidance.base import Backbone
from ldm.models.dropout import dropouts_of, give_keys
from ldm.models.lora import AdaptedNet, LoRA
from ldm.models.protocols import TextEncoder
from ldm.training.distributed.strategy import arrange, whole
from ldm.training.ema import Horizon, MovingAverage, twin_of
from ldm.training.flops import flops, flops_of_method
from ldm.training.latent_cache import LatentCache
from ldm.training.loss_terms import LossTerm, losses_of
from ldm.training.optim import LRSchedule, clip_or_drop, optimizer_and_schedule, parameters_of
from ldm.training.power_ema import power_functions
from ldm.training.sampling import sampler_of
from ldm.utils.errors import UserError


class LatentDiffusion(pl.LightningModule):
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
    _knows_words = False  # whether the text encoder's vocabulary is a given one

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
        super().__init__()
        if not 0.0 <= caption_dropout < 1.0:
            raise ValueError(f"caption_dropout must be in [0, 1), got {caption_dropout}")
        self._frozen: tuple[Any, ...] = (autoencoder.requires_grad_(False).eval(),)
        self._factories, self._make_adapters = (text_encoder, backbone), adapters
        self._adapted: AdaptedNet | None = None
        self._initial: dict[str, nn.Module] = {}  # nets whose weights this run starts from
        self.diffusion, self.time_sampling, self.sampling = diffusion, time_sampling, sampling
        self.time_draws = time_draws or LowDiscrepancy()
        self._optimizer, self._lr_schedule, self.batch_size = optimizer, lr_schedule, batch_size
        self.caption_dropout, self.horizon = caption_dropout, Horizon(images=ema_images)
        self._power_functions = power_functions(power_ema)
        self.sample_posterior, self.image_size, self.seed = sample_posterior, image_size, seed
        self._arrangement = (activation_checkpointing, compile)
        self._cache = LatentCache() if cache_latents else None
        self.metadata: dict[str, str] | None = None  # of checkpoints: what model they are of
        self.gradient_norm, self.skipped = torch.tensor(0.0), False  # of the last step
        self.loss_terms = tuple((loss_terms or {}).values())
        self._sound = torch.tensor(True)  # whether all losses of the step begun are finite
        self._encoded = False  # whether the data hold latents in place of images
        self._empty: Conditioning | None = None  # of the empty caption, where they hold embeddings, too
        self.weak: tuple[Any, ...] | None = None  # nets of a weaker model, for sample grids

    @property
    def autoencoder(self) -> nn.Module:
        """The frozen first stage."""
        return self._frozen[0]

    def start_from(self, components: dict[str, nn.Module]) -> None:
        """Lets text encoder and backbone begin with the weights of those in `components`."""
        names = {"text_encoder", "backbone"} & components.keys()
        self._initial = {name: components[name] for name in names}
        self._knows_words = "text_encoder" in names

    def configure_model(self) -> None:
        """Builds the trainable nets and their EMA twins once, from the run's seed."""
        if hasattr(self, "nets"):
            return
        make_text, make_backbone = self._factories
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            text, backbone = make_text(), make_backbone()
            for net, name in ((text, "text_encoder"), (backbone, "backbone")):
                if name in self._initial:
                    net.load_state_dict(self._initial.pop(name).state_dict())
            trains_text = text.trainable and self._make_adapters is None
            trainable = {"text_encoder": text} if trains_text else {}
            if self._make_adapters is not None:
                adapters = self._make_adapters(backbone)
                self._adapted, backbone = AdaptedNet(backbone, adapters), adapters
            self.nets = nn.ModuleDict({**trainable, "backbone": backbone})
        if not trains_text:
            self._frozen = (self.autoencoder, text.requires_grad_(False).eval())
        self.ema = twin_of(self.nets)
        if self._power_functions:
            self.powers = nn.ModuleList(twin_of(self.nets) for _ in self._power_functions)
        nets = self.nets if self._adapted is None else nn.ModuleDict({"backbone": self._adapted.net})
        arrange(nets, self.twins, self.device_mesh, *self._arrangement)
        self._dropouts = dropouts_of(self.nets)

    def text_encoder(self, of: nn.ModuleDict) -> TextEncoder:
        """The text encoder among the trained nets (or their EMA twins), or the frozen one."""
        text = of["text_encoder"] if "text_encoder" in of else self._frozen[1]
        assert isinstance(text, TextEncoder)
        return text

    def backbone(self, of: nn.ModuleDict) -> Backbone:
        """The denoising net among the trained nets (or their EMA twins), or the frozen one with these."""
        return of["backbone"] if self._adapted is None else self._adapted.using(of["backbone"])

    @property
    def twins(self) -> list[nn.Module]:
        """The averages that follow the nets: the EMA, then those over power functions."""
        return [self.ema, *self.power_averages.values()]

    @property
    def power_averages(self) -> dict[float, nn.Module]:
        """The averages over power functions, by their sigma_rel."""
        names = [power.sigma_rel for power in self._power_functions]
        return dict(zip(names, self.powers, strict=True)) if names else {}

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW or what the config says, with the schedule in images."""
        return optimizer_and_schedule(
            self._optimizer, self.nets.parameters(), self._lr_schedule, self.batch_size
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the norm of all gradients, or drops a step that is not finite, on all ranks.

        Lightning's own clipping refuses fused optimizers in bf16-mixed.
        """
        agree = self.trainer.strategy.reduce_boolean_decision
        self.gradient_norm, self.skipped = clip_or_drop(
            parameters_of(optimizer), gradient_clip_val, bool(self._sound), agree
        )
        self._sound = torch.tensor(True)

    def on_fit_start(self) -> None:
        """Moves the frozen nets to the device, learns the vocabulary, readies the moving average."""
        self._use_encoded(self.trainer.datamodule)
        adapted = () if self._adapted is None else (self._adapted.net,)
        for net in (*self._frozen, *(self.weak or ()), *adapted):
            net.to(self.device)
        for nets in () if self._knows_words else (self.nets, *self.twins):
            self.text_encoder(nets).learn_vocabulary(self.trainer.datamodule.captions)
        decays = [self.horizon, *self._power_functions]
        self._averages = [MovingAverage(t, self.nets, d) for t, d in zip(self.twins, decays, strict=True)]

    @torch.no_grad()
    def latents(self, batch: dict[str, Any]) -> Float[Tensor, "b c h w"]:
        """Normalised latents of a batch, drawn from the posterior by (seed, key, visit)."""
        if self._cache is None or self._encoded:
            both = self.moments(batch)
        else:
            both = self._cache(lambda image: self.moments({"image": image}), batch)
        mean, std = both.chunk(2, dim=1)
        if self.sample_posterior:
            key, visit = batch["key"], batch["visit"]
            mean = mean + std * random.normal(self.seed, "posterior", key, visit, mean.shape[1:])
        return self.autoencoder.normalise(mean)

    def _use_encoded(self, data: Any) -> None:
        """Makes sure that data which hold latents were encoded by the nets of this run."""
        if not hasattr(data, "verify"):
            return
        data.verify(self.autoencoder, self.text_encoder(self.nets))
        self._encoded = True
        self._empty = None if data.empty is None else data.empty.to(self.device)

    @torch.no_grad()
    def moments(self, batch: dict[str, Any]) -> Float[Tensor, "b c2 h w"]:
        """Mean and deviation of the posterior before any scaling, as the data hold them or encoded here."""
        if "mean" in batch:
            return torch.cat([batch["mean"].float(), batch["std"].float()], dim=1)
        posterior = self.autoencoder.encode(batch["image"])
        return torch.cat([posterior.mean, (0.5 * posterior.logvar).exp()], dim=1)

    def conditioning(
        self, nets: nn.ModuleDict, batch: dict[str, Any], dropout: float, u: Float[Tensor, " b"]
    ) -> Conditioning:
        """Embeddings of a batch's captions, as the data hold them or encoded; of "" where u < dropout."""
        if self._empty is None:
            return self.text_encoder(nets).encode(drop_captions(batch["caption"], dropout, u))
        found = {name: batch[name].float() for name in ("tokens", "pooled") if name in batch}
        return drop_embeddings(Conditioning(**found), self._empty, dropout, u)

    def times(self, key: Int64[Tensor, " b"], visit: int | Tensor) -> Float[Tensor, " b"]:
        """Training times of a visit."""
        return self.time_sampling(self.time_draws(self.seed, key, visit), self.diffusion.schedule)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """One batch: its loss and, detached, the loss of each sample with its time and key."""
        key, visit = batch["key"], batch["visit"]
        x0 = self.latents(batch)
        u = random.uniform(self.seed, "caption_dropout", key, visit)
        cond = self.conditioning(self.nets, batch, self.caption_dropout, u)
        noise = random.normal(self.seed, "noise", key, visit, x0.shape[1:])
        t = self.times(key, visit)
        give_keys(self._dropouts, self.seed, key, visit)
        net = self.backbone(self.nets)
        losses = losses_of(
            self.diffusion, lambda x_t, s: net(x_t, s, cond), x0, noise, t, cond, self.loss_terms
        )
        self._sound = self._sound.to(losses.device) & losses.detach().isfinite().all()
        return {"loss": losses.mean(), "loss_per_sample": losses.detach(), "t": t, "key": key}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step, then the EMA twins follow: before any callback saves or draws, once per accumulation."""
        super().optimizer_step(*args, **kwargs)
        before = self.global_step * self.batch_size  # the step counts once this hook has ended
        for average in self._averages:
            average.update(before, before + self.batch_size)

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
        latent, std = self.moments(samples).chunk(2, dim=1)
        if self.sample_posterior:
            latent = latent + std * random.normal(seed, "validation_posterior", draw, 0, latent.shape[1:])
        x0 = self.autoencoder.normalise(latent)
        cond = self.conditioning(self.ema, samples, 0.0, u)
        noise = random.normal(seed, "validation_noise", draw, 0, x0.shape[1:])
        t = self.time_sampling(u, self.diffusion.schedule)
        net = self.backbone(self.ema)
        return self.diffusion.loss(lambda x_t, s: net(x_t, s, cond), x0, noise, t)

    def flops_per_image(self) -> int:
        """FLOPs of training on an image: thrice a forward of the nets trained, once one of the frozen.

        Beside adapters the net's own weights get no gradients: twice a forward, without the adapters.
        """
        make_text, make_backbone = self._factories
        size = self.image_size // self.autoencoder.downscale
        shape = (1, self.autoencoder.latent_channels, size, size)

        def words() -> Conditioning:
            return make_text().encode(["a word"])

        def denoise() -> None:
            make_backbone()(torch.zeros(shape), torch.zeros(1), words())

        text = flops(words)
        trained = flops(denoise) - (0 if "text_encoder" in self.nets else text)
        frozen = 0 if "text_encoder" in self.nets or self._empty is not None else text
        if self._cache is None and not self._encoded:
            frozen += flops_of_method(self.autoencoder, "encode", (1, 3, self.image_size, self.image_size))
        return (3 if self._adapted is None else 2) * trained + frozen

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

        All ranks have to ask; sharded nets come in one piece on the first. Of a run that trains adapters the
        backbone are these.
        """
        make_text, make_backbone = self._factories
        text = whole(self.text_encoder(self.ema), make_text)
        backbone = whole(self.ema["backbone"], make_backbone)
        return {"autoencoder": self.autoencoder, "text_encoder": text, "backbone": backbone}
