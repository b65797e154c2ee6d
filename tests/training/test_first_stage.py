from types import SimpleNamespace

import pytest
import torch

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.native import save_model
from ldm.models.vae import AutoencoderKL
from ldm.training.first_stage import FILE, first_stage, loaded_autoencoder, stored_in, trainer_of
from ldm.training.summary import Summary
from ldm.utils.errors import UserError

NODE = {
    "_target_": "ldm.models.vae.AutoencoderKL",
    "latent_channels": 2,
    "channels": [4],
    "layers_per_block": 1,
    "mid_attention": False,
    "norm_groups": 2,
}


def loaded(value=0.0):
    """A model with an autoencoder that is known by its first bias."""
    net = AutoencoderKL(**{key: x for key, x in NODE.items() if key != "_target_"})
    torch.nn.init.constant_(net.encoder.conv_in.bias, value)
    return LoadedModel(config={"autoencoder": NODE}, components={"autoencoder": net})


def saved(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, loaded(value).components, {"autoencoder": NODE})


def config(checkpoint=None, task=None, autoencoder=NODE):
    stage = {"checkpoint": checkpoint, "task": task, "max_steps": 5}
    return {"first_stage": stage, "autoencoder": autoencoder, "task": {}, "resume": "auto"}


def bias(model):
    return model.components["autoencoder"].encoder.conv_in.bias[0].item()


def test_the_file_that_is_given_comes_before_that_of_the_run_and_the_initial_model(tmp_path):
    run, given = tmp_path / "run", tmp_path / "given.safetensors"
    saved(run / FILE, 1.0)
    saved(given, 2.0)
    assert bias(loaded_autoencoder(config(str(given)), tmp_path, loaded(3.0))) == 2.0
    assert bias(loaded_autoencoder(config(), run, loaded(3.0))) == 1.0
    assert bias(loaded_autoencoder(config(), tmp_path, loaded(3.0))) == 3.0
    assert loaded_autoencoder(config(), tmp_path, None) is None
    only_the_autoencoder = config() | {"task": None}  # whose training starts from the initial model
    assert loaded_autoencoder(only_the_autoencoder, tmp_path, loaded(3.0)) is None


def test_a_run_keeps_its_latents_whatever_file_is_given(tmp_path):
    """A copy elsewhere is the same autoencoder; one with other weights or another scaling is not."""
    torch.manual_seed(0)
    model = loaded(1.0)
    for name in ("own", "same", "scaled"):
        (tmp_path / name).mkdir()
    for name, scale in (("own", 1.0), ("same", 1.0), ("scaled", 0.5)):
        save_model(
            tmp_path / name / FILE, model.components, {"autoencoder": NODE | {"scaling_factor": scale}}
        )
    saved(tmp_path / "other" / FILE, 2.0)
    own = tmp_path / "own"
    assert bias(loaded_autoencoder(config(str(tmp_path / "same" / FILE)), own, None)) == 1.0
    for name in ("scaled", "other"):
        with pytest.raises(UserError, match=r"first_stage.checkpoint: must have the autoencoder of .*own"):
            loaded_autoencoder(config(str(tmp_path / name / FILE)), own, None)


def test_a_loaded_autoencoder_is_verified_and_stored_in_the_run(tmp_path):
    seen = []
    data = SimpleNamespace(verify=seen.append)
    model = loaded(4.0)
    net, node = stored_in(tmp_path, model, data, by_reference=False)
    assert (net, node) == (model.components["autoencoder"], NODE)
    assert seen == [net]
    assert bias(load_model(tmp_path / FILE)) == 4.0


def test_adapters_refer_to_the_autoencoder_of_their_base(tmp_path):
    stored_in(tmp_path, loaded(), None, by_reference=True)
    assert not (tmp_path / FILE).exists()


def test_an_autoencoder_with_weights_is_trained_or_loaded(tmp_path):
    with pytest.raises(UserError, match=r"^first_stage.checkpoint: this autoencoder has weights"):
        first_stage(config(), tmp_path, None, None, Summary(tmp_path / "summary.json", "a"), None)


def test_an_autoencoder_without_weights_is_used_as_it_is_built(tmp_path):
    node = {"_target_": "ldm.models.identity.IdentityAutoencoder", "_partial_": True}
    net, stored = first_stage(
        config(autoencoder=node), tmp_path, None, None, Summary(tmp_path / "summary.json", "a"), None
    )
    assert stored == {"_target_": "ldm.models.identity.IdentityAutoencoder"}
    assert net.latent_channels == 3


@pytest.mark.parametrize("discriminator", [None, {"_target_": "x"}])
def test_the_first_stage_has_a_copy_on_each_rank_and_clips_by_itself(discriminator):
    stage = {"max_steps": 5, "task": {"discriminator": discriminator}}
    strategy = {"_target_": "distributed", "shard": True, "copies": 2, "timeout": 300.0, "find_unused": False}
    trainer = {"max_steps": 9, "gradient_clip_val": 1.0, "accumulate_grad_batches": 4, "strategy": strategy}
    changed = trainer_of(stage, trainer)
    assert (changed["max_steps"], changed["gradient_clip_val"], changed["accumulate_grad_batches"]) == (
        5,
        None,
        1,
    )
    assert changed["strategy"] == strategy | {
        "shard": False,
        "copies": None,
        "find_unused": discriminator is not None,
    }
    assert trainer["strategy"] is strategy
    assert trainer_of(stage, trainer | {"strategy": "auto"})["strategy"] == "auto"
