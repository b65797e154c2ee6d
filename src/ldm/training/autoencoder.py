"""Lightning glue of the first stage: reconstruction, KL, perceptual, adversarial (Rombach et al. 2022).

The loss is that of the original code divided by the number D of elements of an image (196,608 at 256 pixels).
There errors are summed over pixels and channels, the perceptual distance over as many copies, and the KL
divergence over the latent; here errors are means and the divergence is over D. The weights thus have the
values of the original configs, AdamW's steps are the same, and the balance of error and divergence does not
depend on the image's size.
The adaptive weight is bounded by 1e4 / D, the original's by 1e4.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ldm.checkpoints.tensors import TRAINING
from ldm.diffusion import random
from ldm.models.vae import AutoencoderKL, Posterior
from ldm.training.flops import flops
from ldm.training.optim import LRSchedule, clip_or_drop, optimizer_and_schedule, parameters_of
from ldm.training.probe import AutoencoderProbe
from ldm.utils.ema import Horizon, MovingAverage, twin_of


@torch.no_grad()
def latent_statistics(z: Float[Tensor, "n c h w"], whitening: float | None) -> dict[str, Any]:
    """Scaling and shift that give latents mean 0 and overall variance 1.

    Args:
        z: samples of the posteriors of training images, as the diffusion model sees them: the variance of
            their means leaves out the posteriors' own.
        whitening: 0 keeps the channels' relative spread, 1 gives each channel variance 1; None is one scale
            for all and no shift (Rombach et al. 2022, App. G).

    Returns: `scaling_factor` and `shift_factor`, one number per channel, or one for all.
    """
    if whitening is None:
        return {"scaling_factor": 1.0 / float(z.std().clamp_min(1e-6)), "shift_factor": 0.0}
    shift, std = z.mean((0, 2, 3)), z.std((0, 2, 3)).clamp_min(1e-6)
    scale = std**-whitening
    scale = scale / ((std * scale).square().mean().sqrt())
    return {"scaling_factor": scale.tolist(), "shift_factor": shift.tolist()}


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, bound: float = 1e4
) -> Tensor:
    """Ratio of the two losses' gradient norms at the decoder's last layer (Esser et al. 2021, Eq. 7).

    Args:
        reconstruction: scalar reconstruction loss.
        adversarial: scalar generator loss.
        last_layer: weight of the decoder's last convolution.
        bound: of the weight.

    Returns: the weight of the adversarial term, in [0, bound], detached.
    """
    norms = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        for loss in (reconstruction, adversarial)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0.0, bound).detach()


class AutoencoderTraining(pl.LightningModule):
    """Trains a KL autoencoder: L1 + L2 + perceptual + adversarial + KL.

    Args:
        autoencoder: makes the autoencoder; called in `configure_model`.
        optimizer: maps parameters to an optimizer.
        lr_schedule: learning-rate factor of the images seen; None keeps the rate.
        batch_size: global batch size, images per step.
        l1_weight: weight of the mean absolute error per element.
        l2_weight: weight of the mean squared error per element.
        kl_weight: weight of the KL divergence, summed per sample, against errors summed per sample.
        perceptual: makes a perceptual distance (image, image) -> (b,); None leaves the term out.
        perceptual_weight: its weight.
        discriminator: makes the discriminator; None leaves the adversarial term out.
        adversarial_weight: its weight, multiplied by the adaptive weight.
        adversarial_start: step at which the adversarial term starts.
        gradient_clip: largest norm of the gradient.
        ema_images: horizon of the EMA: the images over which it forgets to 1/e.
        seed: of all draws.
    """

    stage = "autoencoder"

    def __init__(
        self,
        *,
        autoencoder: Callable[[], AutoencoderKL],
        optimizer: Callable[..., Optimizer],
        lr_schedule: LRSchedule | None,
        batch_size: int,
        l1_weight: float = 1.0,
        l2_weight: float = 0.0,
        kl_weight: float = 1.0e-6,
        perceptual: Callable[[], nn.Module] | None = None,
        perceptual_weight: float = 1.0,
        discriminator: Callable[[], nn.Module] | None = None,
        adversarial_weight: float = 0.5,
        adversarial_start: int = 0,
        gradient_clip: float = 1.0,
        ema_images: int = 1_600,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._factories = (autoencoder, discriminator, perceptual)
        self._optimizer, self._lr_schedule, self.batch_size = optimizer, lr_schedule, batch_size
        self.l1_weight, self.l2_weight, self.kl_weight = l1_weight, l2_weight, kl_weight
        self.perceptual_weight, self.adversarial_weight = perceptual_weight, adversarial_weight
        self.adversarial_start, self.gradient_clip = adversarial_start, gradient_clip
        self.horizon, self.seed, self.run = Horizon(images=ema_images), seed, ""
        self.perceptual: tuple[nn.Module, ...] = ()  # no part of the module tree: frozen, in no checkpoint
        self.discriminator: nn.Module | None = None
        self._initial: nn.Module | None = None  # whose weights this run starts from

    def start_from(self, net: nn.Module) -> None:
        """Lets the autoencoder begin with the weights of another."""
        self._initial = net

    def configure_model(self) -> None:
        """Builds the nets once, from the run's seed."""
        if hasattr(self, "net"):
            return
        make_net, make_discriminator, make_perceptual = self._factories
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.net = make_net()
            if self._initial is not None:
                self.net.load_state_dict(self._initial.state_dict())
            if make_discriminator is not None:
                self.discriminator = make_discriminator()
        if make_perceptual is not None:
            self.perceptual = (make_perceptual().requires_grad_(False).eval(),)
        self.ema = twin_of(self.net)

    def on_fit_start(self) -> None:
        """Moves the perceptual net to the device, readies the moving average."""
        for module in self.perceptual:
            module.to(self.device)
        self.averages = [MovingAverage(self.ema, self.net, self.horizon)]

    def on_train_start(self) -> None:
        """At a run's first step, known only now, starts the shortcut at the data's principal parts."""
        if self.global_step == 0 and "shortcut" in self.net.supports and self._initial is None:
            images = cast(Any, self.trainer).datamodule.training_images()
            self.net.init_shortcut(images.to(self.device))
            self.ema.load_state_dict(self.net.state_dict())

    def configure_optimizers(self) -> Any:
        """One optimizer for the autoencoder and, with an adversarial term, one for the discriminator."""
        parts = [self.net] + ([] if self.discriminator is None else [self.discriminator])
        rate = self._lr_schedule, self.batch_size
        built = [optimizer_and_schedule(self._optimizer, part.parameters(), *rate) for part in parts]
        return [b["optimizer"] for b in built], [b["lr_scheduler"] for b in built]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the config of the run, as YAML: a run that resumes is compared with it."""
        checkpoint[TRAINING] = {"run": self.run}

    def reconstruction_loss(
        self, image: Float[Tensor, "b c h w"], output: Float[Tensor, "b c h w"], posterior: Posterior
    ) -> Float[Tensor, " b"]:
        """Loss of each sample without the adversarial term."""
        difference = output - image
        loss = self.l1_weight * difference.abs().flatten(1).mean(1)
        loss = loss + self.l2_weight * difference.square().flatten(1).mean(1)
        loss = loss + self.kl_weight * posterior.kl() / image[0].numel()
        for perceptual in self.perceptual:
            loss = loss + self.perceptual_weight * perceptual(image, output)
        return loss

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """One step of the autoencoder and, once started, one of the discriminator."""
        output, losses = self.reconstruction(batch)
        total, adversarial = [], self.global_step >= self.adversarial_start
        for index, loss in self.objectives(batch["image"], output, losses, adversarial):
            self._optimise(index, loss)
            total.append(loss.detach())
        return {"loss": total[0], "loss_per_sample": losses.detach(), "t": None, "key": batch["key"]}

    def reconstruction(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Reconstruction of a batch and its loss per sample; the latent is drawn by (seed, key, visit)."""
        posterior = self.net.encode(batch["image"])
        shape = posterior.mean.shape[1:]
        noise = random.normal(self.seed, "posterior", batch["key"], batch["visit"], shape)
        output = self.net.decode(posterior.sample(noise))
        return output, self.reconstruction_loss(batch["image"], output, posterior)

    def objectives(
        self,
        image: Float[Tensor, "b c h w"],
        output: Float[Tensor, "b c h w"],
        losses: Float[Tensor, " b"],
        adversarial: bool,
    ) -> Iterator[tuple[int, Tensor]]:
        """The losses to minimise one after the other, each with the index of its optimizer.

        Args:
            image: in [-1, 1].
            output: its reconstruction.
            losses: of each sample without the adversarial term.
            adversarial: add the adversarial term, if there is a discriminator, and train that.
        """
        if self.discriminator is None or not adversarial:
            yield 0, losses.mean()
            return
        loss = losses.mean()
        self.discriminator.requires_grad_(False)
        fool = -self.discriminator(output).mean()
        weight = adaptive_weight(loss, fool, self.net.last_layer, 1e4 / image[0].numel())
        yield 0, loss + self.adversarial_weight * weight * fool
        self.discriminator.requires_grad_(True)
        real, fake = self.discriminator(image), self.discriminator(output.detach())
        yield 1, 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())

    def probe(self, image_size: int, precomputed: bool) -> AutoencoderProbe:
        """The view of the planner (`ldm.training.probe`); images are never encoded ahead of time."""
        return AutoencoderProbe(self, image_size)

    def _optimise(self, index: int, loss: Tensor) -> None:
        optimizers, schedules = self.optimizers(), self.lr_schedulers()
        optimizer = optimizers[index] if isinstance(optimizers, list) else optimizers
        schedule = schedules[index] if isinstance(schedules, list) else schedules
        assert schedule is not None
        optimizer.zero_grad()
        self.manual_backward(loss)
        agree = self.trainer.strategy.reduce_boolean_decision
        parameters, sound = parameters_of(cast(Optimizer, optimizer)), bool(loss.isfinite())
        norm, skipped = clip_or_drop(parameters, self.gradient_clip, sound, agree)
        if index == 0:
            self.gradient_norm, self.skipped = norm, skipped
        # Only the autoencoder's steps count as the run's steps.
        (optimizer if index == 0 else optimizer.optimizer).step()
        schedule.step()

    def flops_per_image(self) -> int:
        """FLOPs of training the autoencoder on an image: thrice a forward pass; no other term of the loss."""
        size, make_net = cast(Any, self.trainer).datamodule.image_size, self._factories[0]

        def forward() -> None:
            net = make_net()
            net.decode(net.encode(torch.zeros(1, 3, size, size)).mean)

        return 3 * flops(forward)

    @torch.no_grad()
    def reconstruct(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Reconstructions, in [-1, 1], by the EMA weights from the posterior's mean."""
        parts = [self.ema.decode(self.ema.encode(x.to(self.device)).mean) for x in images.split(64)]
        return torch.cat(parts).clamp(-1, 1).cpu()

    @torch.no_grad()
    def latent_statistics(self, images: Float[Tensor, "n c h w"], whitening: float | None) -> dict[str, Any]:
        """`latent_statistics` of training images in [-1, 1], by the EMA weights, drawn by (seed, index)."""
        parts = []
        for index in torch.arange(len(images), device=self.device).split(64):
            posterior = self.ema.encode(images[index.cpu()].to(self.device))
            noise = random.normal(self.seed, "latent_statistics", index, 0, posterior.mean.shape[1:])
            parts.append(posterior.sample(noise))
        return latent_statistics(torch.cat(parts), whitening)
