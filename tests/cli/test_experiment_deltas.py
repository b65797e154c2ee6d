"""Advice on an experiment's keys for an option that the command line replaced: typed as printed, it works."""

import re

import pytest

from ldm.cli import train
from ldm.cli.app import entry


@pytest.fixture
def command(tmp_path, capsys):
    """ldm-train up to the checks: its status and the line on stderr."""
    checked = entry("train", supplied=train.SUPPLIED)(lambda config: None)

    def run(*words):
        status = checked([*words, f"hydra.run.dir={tmp_path}/run"])
        return status, capsys.readouterr().err.strip()

    return run


SWAPS = [
    ("experiment=tiny", "text_encoder=clip", "backbone.context_dim=32"),
    ("experiment=emoji", "time_sampling=logit_normal"),
    ("experiment=sd15", "timesteps=trailing", "data.root=photos"),
    ("experiment=sd_scale", "data=imagefolder", "data.root=photos"),
    ("experiment=toy_latent_text", "data=synthetic", "time_sampling=uniform"),
]


@pytest.mark.parametrize("words", SWAPS)
def test_one_retry_with_the_advice_suffices(words, command):
    status, line = command(*words)
    assert status == 2
    assert len(line.splitlines()) == 1
    advice = re.search(r"; drop (?:it|them) with ((?:~\S+ ?)+)", line)
    assert advice is not None, line
    status, line = command(*words, *advice[1].split())
    assert "no such key" not in line
    assert "unknown key" not in line
    assert (status, line) == (0, ""), line


def test_the_line_names_the_experiment_the_option_and_what_else_applies(command):
    _, line = command("experiment=tiny", "text_encoder=clip")
    assert line.startswith(
        "ldm-train: text_encoder.token_dim: experiment=tiny sets it, text_encoder=clip has no such key; "
        "drop it with ~text_encoder.token_dim (the experiment also sets text_encoder.width=32 "
    )


def test_a_key_typed_on_the_command_line_is_not_the_experiments(command):
    _, line = command("experiment=tiny", "optimizer=adamw", "+optimizer.wrong=1")
    assert "optimizer.wrong: unknown key" in line


def test_an_option_with_the_keys_of_the_experiment_needs_no_advice(command):
    assert command("experiment=tiny", "autoencoder=toy", "weighting=min_snr") == (0, "")
