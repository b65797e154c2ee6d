"""What a step on fake tensors is said to need is what real steps on this CPU take."""

import importlib.util
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ldm.diffusion import prediction, schedule, time_sampling, weighting
from ldm.diffusion.process import Diffusion
from ldm.models.discriminator import PatchDiscriminator
from ldm.models.lora import LoRA
from ldm.models.text_encoder import TinyTextEncoder
from ldm.models.unet import UNet
from ldm.models.vae import AutoencoderKL
from ldm.planning.simulate import Setting, on_meta
from ldm.planning.simulate import simulate as simulate_anew
from ldm.training.autoencoder import AutoencoderTraining
from ldm.training.distributed.sharding import blocks, recompute
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.optim import LRSchedule

SIZE = 32
AUTOENCODER = partial(AutoencoderKL, channels=[16, 32], layers_per_block=1, norm_groups=4)
BACKBONE = partial(
    UNet,
    in_channels=4,
    out_channels=4,
    channels=[32, 64],
    layers_per_block=1,
    attention=["cross", "none"],
    num_heads=4,
    context_dim=32,
    norm_groups=8,
)
OPTIMISER = {
    "optimizer": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    "lr_schedule": LRSchedule(warmup_images=1, total_images=1),
    "batch_size": 4,
}


def diffusion(device="meta", mid_attention=True, **changes):
    with torch.device(device):
        autoencoder = AUTOENCODER(mid_attention=mid_attention)
    return LatentDiffusion(
        autoencoder=autoencoder,
        text_encoder=partial(TinyTextEncoder, width=32, layers=1, num_heads=2, max_length=8),
        backbone=BACKBONE,
        diffusion=Diffusion(
            schedule=schedule.cosine(), prediction=prediction.Velocity(), weighting=weighting.Uniform()
        ),
        time_sampling=time_sampling.UniformTimes(),
        sampling={},
        image_size=SIZE,
        **OPTIMISER | changes,
    )


@cache
def simulate(make, setting, image_size, **more):
    """One simulation for the tests that ask for the same."""
    return simulate_anew(make, setting, image_size, **more)


without_attention = partial(diffusion, mid_attention=False)
adapted = partial(diffusion, adapters=partial(LoRA, rank=2, alpha=2.0, targets=["to_q", "to_out"]))


def autoencoder(device="cpu"):
    discriminator = partial(PatchDiscriminator, width=16, layers=1)
    return AutoencoderTraining(autoencoder=AUTOENCODER, discriminator=discriminator, **OPTIMISER)


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[2] / "experiments" / "sd_scale" / "plan.py"
    spec = importlib.util.spec_from_file_location("plan_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "precision", "checkpointing"),
    [
        (diffusion, "32-true", False),
        pytest.param(diffusion, "bf16-mixed", False, marks=pytest.mark.slow),
        pytest.param(diffusion, "32-true", True, marks=pytest.mark.slow),
        (diffusion, "bf16-mixed", True),
        (autoencoder, "32-true", False),
    ],
)
def test_planned_memory_is_what_the_allocator_gives_to_real_steps(make, precision, checkpointing, script):
    seen = simulate(make, Setting(precision=precision, checkpointing=checkpointing), SIZE)
    planned = sum(seen.state.values()) + sum(seen.peak(12))
    measured = script.allocated_peak(lambda: make("cpu"), 12, precision, checkpointing, SIZE)
    assert planned == pytest.approx(measured, rel=0.1)


def test_memory_at_any_batch_is_that_of_a_step_simulated_at_it():
    seen = simulate(diffusion, Setting(), SIZE)
    again = simulate(diffusion, Setting(), SIZE, batches=(9,))
    assert seen.peak(9) == again.peak(9)
    assert seen.flops == again.flops


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_are_those_that_torch_counts_in_a_real_step(checkpointing):
    """But for the CPU's fused attention, that of frozen nets, which torch's counter passes over."""
    seen = simulate(without_attention, Setting(checkpointing=checkpointing), SIZE)
    module = diffusion("cpu", mid_attention=False)
    module.configure_model()
    if checkpointing:
        recompute(module.nets["backbone"])
    batch = module.probe(SIZE, precomputed=False).batch(2)
    module.training_step(batch, 0)  # what is made once
    with FlopCounterMode(display=False) as counter:
        module.training_step(batch, 0)["loss"].backward()
    assert 2 * sum(seen.flops.values()) == counter.get_total_flops()


def test_the_flops_of_mfu_are_those_that_a_run_logs():
    seen = simulate(diffusion, Setting(), SIZE)
    assert seen.model_flops == on_meta(diffusion).flops_per_image()
    assert seen.flops["frozen"] > 0
    ahead = simulate(diffusion, Setting(precomputed=True), SIZE)
    assert ahead.model_flops == 3 * seen.flops["trained"]
    assert ahead.state["frozen"] == 0 < seen.state["frozen"]


def test_the_flops_of_a_gpus_kernels_are_the_same_forward():
    assert (
        simulate(diffusion, Setting(gpu=True), SIZE).model_flops
        == simulate(diffusion, Setting(), SIZE).model_flops
    )


def test_a_gpu_keeps_no_scores_of_attention():
    cpu, gpu = (simulate(diffusion, Setting(gpu=g), 2 * SIZE).peak(4)[1] for g in (False, True))
    scores = 4 * 4 * 32**2 * 32**2 * 4  # batch, heads, queries, keys, bytes, of each attention at full size
    assert cpu - gpu > scores


def test_state_counts_every_twin_of_the_weights_and_two_moments():
    seen = simulate(diffusion, Setting(), SIZE)
    weights = 4 * seen.parameters
    assert seen.state["parameters"] == weights
    assert seen.state["ema"] == weights
    assert 2 * weights <= seen.state["optimizer"] <= 2 * weights + 1000 * 4


def test_a_frozen_base_is_held_beside_its_adapters_and_gets_no_gradients():
    whole, seen = (simulate(make, Setting(), SIZE) for make in (diffusion, adapted))
    base = sum(p.numel() for p in BACKBONE().parameters())
    assert seen.parameters == sum(p.numel() for p in adapted.keywords["adapters"](BACKBONE()).parameters())
    assert (
        seen.state["ema"] == seen.state["parameters"] == 4 * seen.parameters < 0.1 * whole.state["parameters"]
    )
    assert seen.state["frozen"] >= whole.state["frozen"] + 4 * base
    assert seen.flops["backward"] < 0.8 * whole.flops["backward"]
    assert seen.model_flops == pytest.approx(on_meta(adapted).flops_per_image(), rel=0.1)


def test_of_adapters_whose_data_are_encoded_only_the_base_is_held():
    seen = simulate(adapted, Setting(precomputed=True), SIZE)
    assert seen.state["frozen"] == 4 * sum(p.numel() for p in BACKBONE().parameters())


def test_checkpointing_trades_memory_for_a_forward_pass():
    plain, again = (simulate(diffusion, Setting(checkpointing=c), SIZE) for c in (False, True))
    assert again.peak(16)[1] < 0.8 * plain.peak(16)[1]
    assert 0 < again.flops["backward"] - plain.flops["backward"] <= plain.flops["trained"]


def test_blocks_are_the_outermost_and_hold_most_of_a_backbone():
    net = BACKBONE()
    found = list(blocks(net))
    assert not any(a is not b and a in list(b.modules()) for a in found for b in found)
    held = sum(p.numel() for block in found for p in block.parameters())
    assert held > 0.7 * sum(p.numel() for p in net.parameters())


def test_a_precision_that_cannot_be_planned_is_refused():
    with pytest.raises(ValueError, match=r"^precision must be one of .*, got 'bf16-true'$"):
        Setting(precision="bf16-true")
