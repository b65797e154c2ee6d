from functools import partial
from types import SimpleNamespace

import pytest
import torch

from ldm.diffusion import prediction, schedule, time_sampling, timesteps, weighting
from ldm.diffusion.process import Diffusion
from ldm.models.blocks import ResBlock
from ldm.models.identity import IdentityAutoencoder
from ldm.models.lora import LoRA
from ldm.models.text_encoder import CLIP_VOCABULARY, ClassEncoder, NullTextEncoder, TinyTextEncoder
from ldm.models.unet import UNet
from ldm.schedulers.ddim import DDIM
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.optim import LRSchedule

CAPTIONS = ["red", "green", "blue", "white"]


def module(**changes):
    values = {
        "autoencoder": IdentityAutoencoder(),
        "text_encoder": partial(ClassEncoder, captions=CAPTIONS, width=16),
        "backbone": partial(
            UNet,
            in_channels=3,
            out_channels=3,
            channels=[16, 16],
            layers_per_block=1,
            attention=["none", "none"],
            mid_attention="none",
            pooled_dim=16,
            norm_groups=4,
        ),
        "diffusion": Diffusion(
            schedule=schedule.cosine(), prediction=prediction.Sample(), weighting=weighting.Uniform()
        ),
        "time_sampling": time_sampling.UniformTimes(),
        "sampling": {
            "scheduler": DDIM(),
            "timesteps": timesteps.trailing,
            "num_inference_steps": 4,
            "guidance_scale": 1.5,
        },
        "optimizer": partial(torch.optim.AdamW, lr=3e-3),
        "lr_schedule": LRSchedule(warmup_images=1, total_images=1),
        "batch_size": 4,
        "image_size": 8,
    }
    net = LatentDiffusion(**(values | changes))
    net.configure_model()
    return net


def batch(keys, visit=0):
    keys = torch.tensor(keys)
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]])
    image = colours[keys % 4][:, :, None, None].expand(-1, 3, 8, 8).contiguous()
    captions = [CAPTIONS[k % 4] for k in keys.tolist()]
    return {"image": image, "caption": captions, "key": keys, "visit": torch.full_like(keys, visit)}


def test_draws_of_a_sample_do_not_depend_on_its_batch():
    net = module()
    one, two = net.training_step(batch([3]), 0), net.training_step(batch([0, 1, 2, 3]), 0)
    assert torch.equal(one["t"][0], two["t"][3])
    torch.testing.assert_close(one["loss_per_sample"][0], two["loss_per_sample"][3], rtol=1e-5, atol=1e-6)


def test_dropout_of_a_sample_depends_on_its_key_and_visit_only():
    net = module(backbone=partial(module().factory.backbone, dropout=0.5))
    torch.nn.init.normal_(net.nets["backbone"].conv_out.weight)
    for block in net.nets["backbone"].modules():
        if isinstance(block, ResBlock):
            torch.nn.init.normal_(block.conv2.weight)  # they start as zeros, behind which nothing shows
    losses = [
        net.training_step(batch(keys, visit), 0)["loss_per_sample"]
        for keys, visit in (([3], 0), ([0, 1, 2, 3], 0), ([3], 1))
    ]
    torch.testing.assert_close(losses[0][0], losses[1][3])
    assert (losses[0][0] - losses[2][0]).abs() > 1e-3


def test_draws_change_with_the_visit_and_the_seed():
    net, other = module(), module(seed=1)
    key = torch.arange(50)
    assert not torch.equal(net.times(key, 0), net.times(key, 1))
    assert not torch.equal(net.times(key, 0), other.times(key, 0))


def test_times_of_a_key_fill_the_range_evenly_over_its_visits():
    net = module()
    times = torch.stack([net.times(torch.tensor([7]), visit) for visit in range(100)]).flatten() / 999
    assert ((times * 10).long().clamp_max(9).bincount(minlength=10) - 10).abs().max() <= 2


def test_overfitting_one_batch_drives_the_loss_down():
    net = module(caption_dropout=0.0)
    optimizer = net.configure_optimizers()["optimizer"]
    losses = []
    for step in range(150):
        loss = net.training_step(batch([0, 1, 2, 3], visit=step), step)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.8
    assert sum(losses[-20:]) / 20 < 0.05


def test_sample_i_of_a_call_depends_on_seed_and_i_only():
    net = module()
    with torch.no_grad():
        net.ema["backbone"].conv_out.weight.normal_()
    all_four = net.sampler.images(CAPTIONS, seed=3)
    assert torch.equal(net.sampler.images(CAPTIONS[:2], seed=3), all_four[:2])
    assert not torch.equal(net.sampler.images(CAPTIONS, seed=4), all_four)


def test_both_twins_learn_the_words_of_the_data():
    text = partial(
        TinyTextEncoder, width=16, layers=1, num_heads=2, max_length=8, token_dim=4, vocabulary_size=16
    )
    net = module(text_encoder=text)
    net._trainer = SimpleNamespace(datamodule=SimpleNamespace(captions=lambda: CAPTIONS))
    net.on_fit_start()
    for nets in (net.nets, net.ema):
        vocabulary = net.text_encoder(nets).vocabulary
        assert (vocabulary < CLIP_VOCABULARY).sum() == len(CAPTIONS) + 3  # start, end and padding


def test_frozen_nets_are_in_no_state_dict_and_no_optimizer():
    net = module(text_encoder=NullTextEncoder, backbone=module().factory.backbone)
    assert {key.split(".")[1] for key in net.state_dict()} == {"backbone"}
    assert set(net.components()) == {"autoencoder", "text_encoder", "backbone"}


def test_caption_dropout_is_checked():
    with pytest.raises(ValueError, match=r"caption_dropout must be in \[0, 1\), got 1\.5"):
        module(caption_dropout=1.5)


def test_adapters_learn_the_same_where_activations_are_recomputed():
    """The backward pass finds the adapters in training, also after the average's were asked."""
    backbone = partial(
        UNet,
        in_channels=3,
        out_channels=3,
        channels=[16, 16],
        layers_per_block=1,
        attention=["none", "self"],
        mid_attention="self",
        pooled_dim=16,
        norm_groups=4,
        num_heads=2,
    )
    adapters = partial(LoRA, rank=2, alpha=2.0, targets=["to_q", "to_v", "to_out"])
    gradients = []
    for recomputed in (False, True):
        net = module(
            backbone=backbone, adapters=adapters, caption_dropout=0.0, activation_checkpointing=recomputed
        )
        for i, p in enumerate(net.nets.parameters()):
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(i))
        for p in net.weights.adapted.net.parameters():  # its last layers start at zero
            p.data += 0.1
        loss = net.training_step(batch([0, 1, 2, 3]), 0)["loss"]
        net.sampler.images(CAPTIONS[:1], seed=0)
        loss.backward()
        assert set(net.state_dict()) == {f"{k}.{n}" for k in ("nets", "ema") for n in net.nets.state_dict()}
        gradients.append([p.grad for p in net.nets.parameters()])
    assert all(float(g.abs().sum()) > 0 for g in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
