from pathlib import Path

import yaml

from ldm.training.directory import moved, to_yaml, write_config


def config():
    return {
        "paths": {"run": "/runs/a", "data": "/data"},
        "trainer": {"default_root_dir": "/runs/a", "strategy": {"timeout": 300.0}},
        "callbacks": {
            "checkpoint": {"folder": "/runs/a/checkpoints"},
            "samples": {"captions": ["/runs/abc"]},
        },
        "logger": {"csv": {"save_dir": "/runs/a"}},
        "data": {"root": "/runs/a/images"},
    }


def test_what_a_run_writes_moves_and_what_it_reads_stays():
    changed = moved(config(), Path("/elsewhere"))
    assert changed["paths"] == {"run": "/elsewhere", "data": "/data"}
    assert changed["trainer"]["default_root_dir"] == "/elsewhere"
    assert changed["callbacks"]["checkpoint"]["folder"] == "/elsewhere/checkpoints"
    assert changed["callbacks"]["samples"]["captions"] == ["/runs/abc"]
    assert changed["logger"]["csv"]["save_dir"] == "/elsewhere"
    assert changed["data"]["root"] == "/runs/a/images"


def test_the_given_config_is_left_as_it_is():
    given = config()
    moved(given, Path("/elsewhere"))
    assert given == config()


def test_the_own_directory_changes_nothing():
    assert moved(config(), Path("/runs/a")) == config()


def test_config_yaml_reads_back_in_order_and_without_aliases(tmp_path):
    shared = {"lr": 1.0e-4, "betas": [0.5, 0.9]}
    given = {"z": shared, "a": shared, "text": "1e-3", "none": None, "umlaut": "ü"}
    write_config(given, tmp_path / "new")
    text = (tmp_path / "new" / "config.yaml").read_text(encoding="utf-8")
    assert text == to_yaml(given)
    assert "&" not in text
    assert "ü" in text
    assert list(yaml.safe_load(text)) == list(given)
    assert yaml.safe_load(text) == given
