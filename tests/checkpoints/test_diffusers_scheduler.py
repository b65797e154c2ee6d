"""Schedulers of diffusers: each class by the fields that it reads, there and back."""

import inspect
import math
from typing import Any

import pytest

from ldm.checkpoints.diffusers_scheduler import CLASSES, FIXED, diffusion_nodes, scheduler_json
from ldm.diffusion.timesteps import times_of
from ldm.utils.construct import reconstruct

PNDM: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_published_scheduler_is_sampled_by_ddim_on_its_grid(prediction: str):
    diffusion, sampling = diffusion_nodes(PNDM | {"prediction_type": prediction})
    assert diffusion["schedule"]["_target_"] == "ldm.diffusion.schedule.scaled_linear"
    assert sampling["timesteps"] == {
        "_target_": "ldm.diffusion.timesteps.leading",
        "_partial_": True,
        "final": 0.0,  # set_alpha_to_one=False: the last step ends at the first time of the table
        "offset": 1,
    }
    assert sampling["thresholding"] is None
    back = scheduler_json(diffusion, sampling)
    assert back["prediction_type"] == prediction
    assert diffusion_nodes(back) == (diffusion, sampling)


@pytest.mark.parametrize(
    "scheduler",
    [
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing", "clip_sample": False},
        {"beta_schedule": "linear", "clip_sample": True, "clip_sample_range": 2.0},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
        {"timestep_spacing": "linspace", "prediction_type": "sample"},
    ],
)
def test_other_schedulers_lead_there_and_back(scheduler: dict[str, Any]):
    nodes = diffusion_nodes(scheduler)
    assert diffusion_nodes(scheduler_json(*nodes)) == nodes


def nodes_with(**changes: Any) -> tuple[Any, Any]:
    diffusion, sampling = diffusion_nodes(PNDM)
    return diffusion | changes.pop("diffusion", {}), sampling | changes


@pytest.mark.parametrize(
    ("diffusion", "says"),
    [
        (
            {"schedule": {"_target_": "ldm.diffusion.continuous.FlowMatching"}},
            "schedule of the folder must be",
        ),
        (
            {"prediction": {"_target_": "ldm.diffusion.prediction.FlowVelocity"}},
            "prediction of the folder must",
        ),
    ],
)
def test_a_diffusion_without_words_is_refused(diffusion: Any, says: str):
    with pytest.raises(ValueError, match=says):
        scheduler_json(*nodes_with(diffusion=diffusion))


def test_sampling_settings_without_words_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture):
    karras = {"_target_": "ldm.diffusion.level_grids.karras", "_partial_": True}
    written = scheduler_json(
        *nodes_with(timesteps=karras, thresholding={"_target_": "ldm.diffusion.thresholding.Dynamic"})
    )
    assert (written["timestep_spacing"], written["clip_sample"]) == ("trailing", False)
    assert "karras" in caplog.text
    assert "Dynamic" in caplog.text


EULER = ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"]
CLEAN = [*EULER, "LMSDiscreteScheduler", "KDPM2DiscreteScheduler", "DPMSolverMultistepScheduler"]
CLEAN += [
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "DDPMScheduler",
]


@pytest.mark.parametrize("name", CLEAN)
def test_fields_of_another_class_have_no_effect(name: str):
    """Schedulers are swapped with from_config, which keeps the fields of the one before."""
    left = PNDM | {"_class_name": name, "clip_sample": False, "timestep_spacing": "trailing"}
    _, sampling = diffusion_nodes(left)
    assert sampling["timesteps"]["final"] == -1.0
    plain = {key: value for key, value in left.items() if key not in ("set_alpha_to_one", "skip_prk_steps")}
    assert diffusion_nodes(plain) == diffusion_nodes(left)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("PNDMScheduler", {"clip_sample": True, "thresholding": True, "rescale_betas_zero_snr": True}),
        ("PNDMScheduler", {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}),
        ("DDIMScheduler", {"final_sigmas_type": "sigma_min", "use_beta_sigmas": True, "sigma_min": 0.1}),
        ("EulerDiscreteScheduler", {"clip_sample": True, "thresholding": True, "set_alpha_to_one": False}),
        ("EulerAncestralDiscreteScheduler", {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}),
        ("LCMScheduler", {"use_karras_sigmas": True, "timestep_spacing": "trailing"}),
    ],
)
def test_left_overs_change_nothing(name: str, left: dict[str, Any]):
    base = PNDM | {"_class_name": name, "clip_sample": False}
    base = {key: value for key, value in base.items() if key not in left}
    if name == "PNDMScheduler":
        base |= {"set_alpha_to_one": False}
    assert diffusion_nodes(base | left) == diffusion_nodes(base)


@pytest.mark.parametrize(
    ("name", "fields", "grid"),
    [
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, ("level_grids.karras", -1.0)),
        ("LMSDiscreteScheduler", {"use_exponential_sigmas": True}, ("level_grids.exponential", -1.0)),
        ("EulerDiscreteScheduler", {}, ("timesteps.linspace", -1.0)),
        ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}, ("timesteps.trailing", -1.0)),
        (
            "DPMSolverMultistepScheduler",
            {"timestep_spacing": "leading", "steps_offset": 1, "final_sigmas_type": "sigma_min"},
            ("timesteps.leading", 0.0),
        ),
        ("DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1}, ("timesteps.leading", 0.0)),
        ("DDIMScheduler", {"set_alpha_to_one": False}, ("timesteps.leading", -1.0)),
        ("PNDMScheduler", {"steps_offset": 1}, ("timesteps.leading", 0.0)),
        ("PNDMScheduler", {}, ("timesteps.leading", -1.0)),
        ("FlaxPNDMScheduler", {"steps_offset": 1}, ("timesteps.leading", 0.0)),
        ("LCMScheduler", {}, ("timesteps.distilled", -1.0)),
        ("TCDScheduler", {}, ("timesteps.distilled", -1.0)),
    ],
)
def test_each_class_has_its_grid_and_defaults(name: str, fields: dict[str, Any], grid: tuple[str, float]):
    timesteps = diffusion_nodes({"_class_name": name, **fields})[1]["timesteps"]
    assert (timesteps["_target_"], timesteps["final"]) == (f"ldm.diffusion.{grid[0]}", grid[1])


def test_clipping_is_on_by_default_where_the_class_says_so():
    for name, bound in (("DDIMScheduler", 1.0), ("DDPMScheduler", 1.0), ("HeunDiscreteScheduler", None)):
        rule = diffusion_nodes({"_class_name": name})[1]["thresholding"]
        assert (rule and rule["bound"]) == bound
    rule = diffusion_nodes({"_class_name": "DDIMScheduler", "clip_sample_range": 2.0})[1]["thresholding"]
    assert rule["bound"] == 2.0


def test_models_distilled_for_a_solver_are_sampled_by_it():
    for name, target in (("LCMScheduler", "LCM"), ("TCDScheduler", "TCD")):
        nodes = diffusion_nodes({"_class_name": name, "original_inference_steps": 100})
        sampling = nodes[1]
        assert sampling["scheduler"]["_target_"] == f"ldm.schedulers.consistency.{target}"
        assert (sampling["num_inference_steps"], sampling["timesteps"]["original_steps"]) == (4, 100)
        assert diffusion_nodes(scheduler_json(*nodes)) == nodes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "is a scheduler of flow matching"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas of the"),
        (
            {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
            "prediction_type of",
        ),
        ({"_class_name": "EDMEulerScheduler"}, "_class_name of the scheduler must be one of"),
        ({"_class_name": "DDIMInverseScheduler"}, "_class_name of the scheduler must be one of"),
        ({"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True}, "use_beta_sigmas of the"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type of the"),
        ({"_class_name": "EulerDiscreteScheduler", "sigma_max": 700.0}, "sigma_max of the scheduler"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": True}, "use_lu_lambdas of the"),
        ({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -5.1}, "lambda_min_clipped of"),
        (
            {"_class_name": "DDPMScheduler", "variance_type": "learned_range"},
            "variance_type of the scheduler",
        ),
        (
            {"_class_name": "DDIMScheduler", "thresholding": True},
            "thresholding of the scheduler must be False",
        ),
        ({"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2]}, "trained_betas of the scheduler"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule of the scheduler"),
        ({"prediction_type": "flow"}, "prediction_type of the scheduler"),
        ({"timestep_spacing": "karras"}, "timestep_spacing of the scheduler"),
    ],
)
def test_what_is_not_supported_is_named(change: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        diffusion_nodes(PNDM | change)


def test_a_last_step_that_would_do_nothing_ends_at_clean_data(caplog: pytest.LogCaptureFixture):
    for spacing, change in (("linspace", {"timestep_spacing": "linspace"}), ("leading", {"steps_offset": 0})):
        diffusion, sampling = diffusion_nodes(PNDM | change)
        schedule = reconstruct(diffusion["schedule"], "")
        times = times_of(reconstruct(sampling["timesteps"], ""), schedule, 4)
        assert times[-2:].tolist() == [0.0, -1.0]
        assert f"{spacing} ends at clean data" in caplog.text


@pytest.mark.parametrize(
    "change", [{"trained_betas": []}, {"steps_offset": 1.0}, {"use_karras_sigmas": None}, {"beta_end": 12e-3}]
)
def test_other_spellings_of_a_value_pass(change: dict[str, Any]):
    assert diffusion_nodes(PNDM | change) == diffusion_nodes(PNDM)


# Choices of the solver, which is DDIM or that of the distillation, and details of options that are off.
SOLVER = {"skip_prk_steps", "solver_order", "solver_type", "solver_p", "algorithm_type", "lower_order_final"}
SOLVER |= {
    "euler_at_final",
    "predict_x0",
    "disable_corrector",
    "predictor_order",
    "corrector_order",
    "tau_func",
}
IDLE = {"dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "time_shift_type"}
IDLE |= {"use_dynamic_shifting", "noise_sampler_seed"}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_field_of_the_reference_is_read_or_a_choice_of_the_solver(name: str):
    diffusers = pytest.importorskip("diffusers")
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    if "kwargs" in parameters:
        pytest.skip("needs torchsde")
    defaults = {key: p.default for key, p in parameters.items() if key != "self"}
    idle = (
        {"timestep_spacing", "steps_offset", "set_alpha_to_one"}
        if name in ("LCMScheduler", "TCDScheduler")
        else set()
    )
    read = CLASSES[name]
    assert defaults.keys() - SOLVER - IDLE - idle == read.keys()
    for key, value in read.items():
        if key != "variance_type" and key in defaults:
            assert value == defaults[key], key
        if key in FIXED and key in defaults:
            assert FIXED[key] == defaults[key] or math.isinf(FIXED[key])
