from ldm.training.model_files import model_config


def test_a_model_names_nets_not_calls_that_wait():
    net = {"_target_": "ldm.models.unet.UNet", "_partial_": True, "in_channels": 4}
    config = {
        "text_encoder": net,
        "backbone": net,
        "diffusion": {"_target_": "ldm.diffusion.process.Diffusion"},
        "sampling": {"guidance_scale": 1.5},
        "data": {"image_size": 32},
        "task": {"caption_dropout": 0.1},
        "name": "a",
        "seed": 0,
        "trainer": {"max_steps": 10},
    }
    stored = model_config(config, {"_target_": "ldm.models.identity.IdentityAutoencoder"})
    assert stored["backbone"] == {"_target_": "ldm.models.unet.UNet", "in_channels": 4}
    assert stored["training"] == {"name": "a", "seed": 0, "steps": 10}
    assert "adapters" not in stored
    adapters = {"_target_": "ldm.models.lora.LoRA", "_partial_": True, "rank": 2}
    with_adapters = model_config(config | {"adapters": adapters}, {})
    assert with_adapters["adapters"] == {"_target_": "ldm.models.lora.LoRA", "rank": 2}
