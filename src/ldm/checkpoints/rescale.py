"""An autoencoder's normalisation of latents moved into its convolutions, for formats that imply another."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ldm.checkpoints.assemble import LoadedModel


def with_scale(model: LoadedModel, scaling_factor: float) -> LoadedModel:
    """The same model with another scaling factor and no shift.

    Normalised latents (mean - shift) scale stay what they are: with k = scale / scaling_factor, the encoder's
    last convolution gives k (mean - shift) and a variance of k^2, the decoder's first one takes it back.

    Args:
        model: with an `AutoencoderKL` without shortcut; it is not changed.
        scaling_factor: of the autoencoder to be.
    """
    net: Any = copy.deepcopy(model.components["autoencoder"])
    channels = net.latent_channels
    scale, shift = (value.detach().double().flatten().expand(channels) for value in (net.scale, net.shift))
    k = scale / scaling_factor
    encoder, decoder = net.quant_conv, net.post_quant_conv
    weight, bias = encoder.weight.double(), encoder.bias.double()
    mean, logvar = bias[:channels], bias[channels:]
    _set(encoder.weight, torch.cat([weight[:channels] * k[:, None, None, None], weight[channels:]]))
    _set(encoder.bias, torch.cat([(mean - shift) * k, logvar + 2.0 * k.log()]))
    weight = decoder.weight.double()
    _set(decoder.bias, decoder.bias.double() + weight.flatten(1) @ shift)
    _set(decoder.weight, weight / k[None, :, None, None])
    net.set_latent_statistics(scaling_factor, 0.0)
    node = model.config["autoencoder"] | {"scaling_factor": scaling_factor, "shift_factor": 0.0}
    return replace(
        model,
        config={**model.config, "autoencoder": node},
        components={**model.components, "autoencoder": net},
    )


def _set(parameter: nn.Parameter, value: Tensor) -> None:
    parameter.data = value.to(parameter.dtype)
