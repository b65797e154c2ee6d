"""Names of diffusers lead to ours."""

import logging
from pathlib import Path
from typing import Any

import pytest

from ldm.pipelines.advice import (
    DEFAULTS,
    METHODS,
    NEEDLESS,
    PARTS,
    check_loading,
    check_path,
    missing_attribute,
    refuse_attribute,
)
from ldm.pipelines.parts import SamplerParts, Setting


@pytest.mark.parametrize(
    "others",
    [
        {"safety_checker": None, "requires_safety_checker": False},
        {"use_safetensors": True},
        {"revision": "main"},
    ],
)
def test_arguments_that_change_nothing_are_taken(others: dict[str, Any]):
    check_loading(others)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        (
            {"safety_checker": 3},
            r"safety_checker is no argument of from_pretrained or must be one of \(None,\)",
        ),
        ({"device_map": "cuda"}, "device_map is no argument of from_pretrained: use device="),
        ({"scheduler": 3}, "scheduler is no argument of from_pretrained: use pipeline.scheduler"),
        ({"revision": "fp16"}, "revision is no argument .*snapshot_download"),
        (
            {"pretrained_model_name_or_path": "x"},
            "pretrained_model_name_or_path is no argument .*: use path=",
        ),
        ({"colour": 3}, "colour is no argument of from_pretrained$"),
    ],
)
def test_other_arguments_are_named(others: dict[str, Any], says: str):
    with pytest.raises(TypeError, match=says):
        check_loading(others)


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_diffusers_cannot_be_set(name: str):
    with pytest.raises(AttributeError, match=f"{name} cannot be set: "):
        refuse_attribute(name, 3)


@pytest.mark.parametrize("name", ["eta", "clip_skip", "prompt_weights", "seed", "noise"])
def test_arguments_of_calls_cannot_be_set(name: str):
    with pytest.raises(AttributeError, match=f"{name} cannot be set, .*: give {name}= in the call"):
        refuse_attribute(name, 1)


def test_settings_of_a_pipeline_can_be_set():
    assert set(DEFAULTS) == {name for name, value in vars(SamplerParts).items() if isinstance(value, Setting)}
    for name in DEFAULTS:
        refuse_attribute(name, None)


@pytest.mark.parametrize("value", [5, "", b"x", ["a"], {}])
def test_a_path_of_another_kind_is_named(value: Any):
    with pytest.raises(TypeError, match="vae must be a file, folder or hub id, got"):
        check_loading({}, {"path": None, "vae": value})
    for fine in (None, "a", Path("a")):
        check_path("vae", fine)


def test_what_there_is_none_of_may_be_set_to_none():
    refuse_attribute("safety_checker", None)
    refuse_attribute("colour", 3)
    with pytest.raises(AttributeError, match="make a pipeline with that backbone"):
        refuse_attribute("unet", None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("unet", "'int' object has no attribute 'unet': it is called 'backbone'"),
        *((name, advice) for name, advice in METHODS.items()),
        ("colour", "'int' object has no attribute 'colour'"),
    ],
)
def test_missing_attributes_are_explained(name: str, says: str):
    with pytest.raises(AttributeError, match=f"{says}$"):
        missing_attribute(int, name)


def test_methods_that_are_not_needed_do_nothing(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        for name in NEEDLESS:
            assert missing_attribute(int, name)("max") is None
    assert caplog.text.count("there is nothing to do") == len(NEEDLESS)
