from ldm.cli.plain_keys import is_group, plain_keys, primary, primary_keys


def test_keys_of_a_command_are_those_it_has_itself():
    sample = plain_keys("sample")
    assert {"prediction", "ema", "lora", "prompt"} <= sample
    assert not {"scheduler", "guidance", "mode", "paths", "hydra", "defaults"} & sample
    train = plain_keys("train")
    assert {"name", "seed", "init_checkpoint"} <= train
    assert not {"prediction", "ema", "adapters", "experiment", "local", "debug"} & train


def test_keys_of_a_command_that_extends_another_are_those_of_both():
    assert {"json", "cluster", "backbone", "seed"} <= set(primary_keys("plan"))


def test_a_primary_config_of_the_users_has_no_file_here():
    assert primary("mine") == {}
    assert plain_keys("mine") == set()


def test_groups_are_folders():
    assert is_group("data")
    assert not is_group("nothing")
