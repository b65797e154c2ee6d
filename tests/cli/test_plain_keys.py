from hydra._internal.config_repository import ConfigRepository

from ldm.cli.plain_keys import plain_keys, without_groups_of


def test_keys_of_a_command_are_those_it_has_itself():
    sample = plain_keys("sample")
    assert {"prediction", "ema", "lora", "prompt"} <= sample
    assert not {"scheduler", "guidance", "mode", "paths", "hydra", "defaults"} & sample
    train = plain_keys("train")
    assert {"name", "seed", "init_checkpoint"} <= train
    assert not {"prediction", "ema", "adapters", "experiment", "local", "debug"} & train


def test_groups_are_back_afterwards():
    before = ConfigRepository.group_exists
    with without_groups_of("sample"):
        assert ConfigRepository.group_exists is not before
    assert ConfigRepository.group_exists is before
