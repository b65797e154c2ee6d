"""Configs of diffusers' schedulers, each class by the fields that it reads, and ours.

Noise schedule and prediction are properties of the model and are taken over exactly. The grid of times, its
end and clipping are defaults for sampling. The solver of the class is a free choice (`scheduler=`): DDIM is
the default, apart from models distilled for a solver of their own. Fields that a class does not read are
left-overs of another one and have no effect.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

from ldm.checkpoints.diffusers_config import (
    check_fixed,
    diffusion_node,
    distilled_node,
    lcm_node,
    one_of,
    sampling_node,
)
from ldm.utils.errors import UserError

log = logging.getLogger(__name__)

Node = dict[str, Any]

BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = {"epsilon": "Epsilon", "v_prediction": "Velocity", "sample": "Sample"}

# What classes read, with their defaults.
MODEL: Node = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
LATENT: Node = MODEL | {"beta_start": 0.00085, "beta_end": 0.012}
LEADING: Node = {"timestep_spacing": "leading", "steps_offset": 0}
LINSPACE: Node = {"timestep_spacing": "linspace", "steps_offset": 0}
ZERO_SNR: Node = {"rescale_betas_zero_snr": False}
CLIPPED: Node = {"clip_sample": True, "clip_sample_range": 1.0}
UNCLIPPED: Node = CLIPPED | {"clip_sample": False}
BOUNDED: Node = {"thresholding": False}
SIGMAS: Node = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
FLOW: Node = {"use_flow_sigmas": False}
LAMBDA: Node = {"lambda_min_clipped": -math.inf, "variance_type": None}
END: Node = {"final_sigmas_type": "zero"}
DDIM: Node = MODEL | LEADING | ZERO_SNR | CLIPPED | BOUNDED | {"set_alpha_to_one": True}
DDPM: Node = MODEL | LEADING | ZERO_SNR | CLIPPED | BOUNDED | {"variance_type": None}
DPM: Node = MODEL | BOUNDED | SIGMAS | FLOW | LAMBDA
KDPM2: Node = LATENT | LINSPACE | SIGMAS
LCM: Node = (
    LATENT | ZERO_SNR | UNCLIPPED | BOUNDED
    | {"beta_schedule": "scaled_linear", "original_inference_steps": 50, "timestep_scaling": 10.0}
)  # fmt: skip
EULER: Node = MODEL | LINSPACE | SIGMAS | ZERO_SNR | END
CLASSES: dict[str, Node] = {
    "DDIMScheduler": DDIM,
    "DDIMParallelScheduler": DDIM,
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": DDPM,
    "PNDMScheduler": MODEL | LEADING | {"set_alpha_to_one": False},
    "LMSDiscreteScheduler": MODEL | LINSPACE | SIGMAS,
    "EulerDiscreteScheduler": EULER
    | {"interpolation_type": "linear", "timestep_type": "discrete", "sigma_min": None, "sigma_max": None},
    "EulerAncestralDiscreteScheduler": MODEL | LINSPACE | ZERO_SNR,
    "HeunDiscreteScheduler": KDPM2 | UNCLIPPED,
    "KDPM2DiscreteScheduler": KDPM2,
    "KDPM2AncestralDiscreteScheduler": KDPM2,
    "DPMSolverSDEScheduler": KDPM2,
    "DPMSolverMultistepScheduler": DPM | LINSPACE | ZERO_SNR | END | {"use_lu_lambdas": False},
    "DPMSolverSinglestepScheduler": DPM | END,
    "DEISMultistepScheduler": MODEL | LINSPACE | BOUNDED | SIGMAS | FLOW,
    "UniPCMultistepScheduler": MODEL | LINSPACE | BOUNDED | SIGMAS | FLOW | ZERO_SNR | END
    | {"sigma_min": None, "sigma_max": None, "shift_terminal": None},
    "SASolverScheduler": DPM | LINSPACE,
    "LCMScheduler": LCM,
    "TCDScheduler": LCM,
}  # fmt: skip
# Of a config that names no class; clipping came with a name.
UNNAMED: Node = DDIM | {"clip_sample": False}
# Fields that ldm has at one value only. A learned variance doubles the channels of the net's output.
FIXED: Node = {
    "interpolation_type": "linear",
    "lambda_min_clipped": -math.inf,
    "shift_terminal": None,
    "sigma_max": None,
    "sigma_min": None,
    "thresholding": False,
    "timestep_type": "discrete",
    "trained_betas": None,
    "use_beta_sigmas": False,
    "use_flow_sigmas": False,
    "use_lu_lambdas": False,
}
DISTILLED = {"LCMScheduler": "LCM", "TCDScheduler": "TCD"}
GRIDS = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential"}
WHAT = "scheduler"


def diffusion_nodes(config: Mapping[str, Any]) -> tuple[Node, Node]:
    """Diffusion and sampling settings from the config of a scheduler of diffusers.

    Raises: ValueError for a class, or a field that the class reads, that ldm does not have.
    """
    name = str(config.get("_class_name") or "").removeprefix("Flax")
    read = _fields(name)
    given = {key: config.get(key, default) for key, default in read.items()}
    check_fixed(WHAT, given, FIXED)
    if str(given.get("variance_type")).startswith("learned"):
        raise UserError(
            f"variance_type of the scheduler must be fixed for ldm, got {given['variance_type']!r}"
        )
    prediction = one_of(WHAT, "prediction_type", given["prediction_type"], PREDICTIONS)
    bound = given["clip_sample_range"] if given.get("clip_sample") else None
    if name in DISTILLED:
        tcd: Node = {"_target_": "ldm.schedulers.consistency.TCD", "gamma": 0.3}
        solver = lcm_node(float(given["timestep_scaling"])) if name == "LCMScheduler" else tcd
        sampling = distilled_node(solver, given["original_inference_steps"], bound)
    else:
        sampling = sampling_node(_grid(given), bound)
    return diffusion_node(_schedule(given), prediction), sampling


def _fields(name: str) -> Node:
    """The fields that a class reads, with their defaults."""
    if name.startswith("FlowMatch"):
        raise UserError(
            f"{name} is a scheduler of flow matching, whose nets count time otherwise: flow models of "
            f"diffusers are not supported"
        )
    return UNNAMED if not name else one_of(WHAT, "_class_name", name, CLASSES)


def _schedule(given: Mapping[str, Any]) -> Node:
    """The noise schedule."""
    name = one_of(WHAT, "beta_schedule", given["beta_schedule"], BETAS)
    schedule: Node = {
        "_target_": f"ldm.diffusion.schedule.{name}",
        "num_train_timesteps": given["num_train_timesteps"],
    }
    if name != "cosine":
        schedule |= {key: given[key] for key in ("beta_start", "beta_end")}
    if given.get("rescale_betas_zero_snr"):
        schedule = {"_target_": "ldm.diffusion.schedule.zero_snr", "base": schedule}
    return schedule


def _grid(given: Mapping[str, Any]) -> Node:
    """The grid of times and its end: clean data, or the first level of the schedule."""
    chosen = given.get("timestep_spacing", "linspace")
    spacing = one_of(WHAT, "timestep_spacing", chosen, {s: s for s in SPACINGS})
    clean = given.get("set_alpha_to_one", True) and given.get("final_sigmas_type", "zero") == "zero"
    for field, grid in GRIDS.items():
        if given.get(field):
            if spacing != "linspace":
                log.warning(
                    "%s: the levels span the whole schedule, timestep_spacing=%s is left out", field, spacing
                )
            return _partial(f"level_grids.{grid}", final=-1.0)
    lowest = spacing == "linspace" or (spacing == "leading" and not given["steps_offset"])
    if lowest and not clean:  # the last time is the first level already
        log.warning("the last step of timestep_spacing=%s ends at clean data", spacing)
    final = -1.0 if clean or lowest else 0.0
    offset = {"offset": given["steps_offset"]} if spacing == "leading" else {}
    return _partial(f"timesteps.{spacing}", final=final, **offset)


def _partial(target: str, **options: Any) -> Node:
    return {"_target_": f"ldm.diffusion.{target}", "_partial_": True, **options}


def scheduler_json(diffusion: Node, sampling: Node) -> Node:
    """The config of a DDIMScheduler, or of that of a distilled net, from our diffusion and sampling settings.

    Its words cannot express every grid and thresholding of ours; those are left out with a warning.

    Raises: ValueError for a schedule or prediction that no such scheduler has.
    """
    schedule = diffusion["schedule"]
    zero_snr = schedule["_target_"].endswith(".zero_snr")
    schedule = schedule["base"] if zero_snr else schedule
    names = {ours: theirs for theirs, ours in BETAS.items()}
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    betas = {key: schedule[key] for key in ("beta_start", "beta_end") if key in schedule}
    solver = {ours: theirs for theirs, ours in DISTILLED.items()}.get(_name_of(sampling["scheduler"]))
    return {
        "_class_name": solver or "DDIMScheduler",
        "num_train_timesteps": schedule.get("num_train_timesteps", 1000),
        "beta_schedule": one_of("folder", "schedule", _name_of(schedule), names),
        **betas,
        "prediction_type": one_of("folder", "prediction", _name_of(diffusion["prediction"]), predictions),
        "rescale_betas_zero_snr": zero_snr,
        **(_distilled_words(sampling) if solver else _sampling_words(sampling)),
        "thresholding": False,
        "trained_betas": None,
    }


def _name_of(node: Node) -> str:
    """The last part of a node's target."""
    return str(node["_target_"]).rpartition(".")[2]


def _distilled_words(sampling: Node) -> Node:
    """Grid, scale of time and clipping of an LCMScheduler or TCDScheduler."""
    clip = sampling.get("thresholding")
    return {
        "original_inference_steps": sampling["timesteps"].get("original_steps", 50),
        "timestep_scaling": sampling["scheduler"].get("time_scale", 10.0),
        "clip_sample": clip is not None,
        "clip_sample_range": 1.0 if clip is None else clip.get("bound", 1.0),
    }


def _sampling_words(sampling: Node) -> Node:
    """Grid and clipping of a DDIMScheduler."""
    grid, rule = sampling["timesteps"], sampling.get("thresholding")
    spacing, final = _name_of(grid), grid.get("final", -1.0)
    if spacing not in SPACINGS or final not in (-1.0, 0.0):
        log.warning("timesteps=%s (final=%g) has no words in diffusers: trailing is written", spacing, final)
        spacing, final = "trailing", -1.0
    if rule is not None and _name_of(rule) != "Clip":
        log.warning("thresholding=%s is not written: only clip has words here", _name_of(rule))
        rule = None
    return {
        "timestep_spacing": spacing,
        "steps_offset": grid.get("offset", 0) if spacing == "leading" else 0,
        "set_alpha_to_one": final < 0,
        "clip_sample": rule is not None,
        "clip_sample_range": 1.0 if rule is None else rule.get("bound", 1.0),
    }
