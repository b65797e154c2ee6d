import pytest

from ldm.generation.settings import Options, Settings, check_count, settings, steps_to_run, with_eta
from ldm.schedulers.ddpm import DDPM
from ldm.schedulers.edm import DPM2


def test_the_typed_options_are_the_settings():
    assert Options.__annotations__.keys() == Settings.__dataclass_fields__.keys()


def test_an_unknown_argument_is_named_with_the_nearest():
    with pytest.raises(TypeError, match=r"unknown argument 'guidence_scale'; did you mean 'guidance"):
        settings({"guidence_scale": 3.0})
    with pytest.raises(TypeError, match=r"unknown argument 'zzz'; allowed besides: negative_prompt"):
        settings({"zzz": 1})


@pytest.mark.parametrize("num_steps", [1, 7, 20, 50, 100, 1000])
def test_strength_keeps_the_exact_number_of_steps(num_steps):
    """Every strength of two decimals: floor(percent N / 100) in whole numbers; floats are off by one."""
    for percent in range(1, 101):
        wanted = percent * num_steps // 100
        if wanted:
            assert steps_to_run(percent / 100, num_steps) == wanted
        else:
            with pytest.raises(
                ValueError, match=rf"strength must be at least 1/{num_steps} .*no step is left"
            ):
                steps_to_run(percent / 100, num_steps)
    assert int(0.57 * 100) == 56  # what float arithmetic says
    assert steps_to_run(1.0, num_steps) == num_steps


@pytest.mark.parametrize("value", [1.5, "2", None, True])
def test_a_count_of_another_kind_is_refused(value):
    with pytest.raises(ValueError, match="resample must be a whole number, got"):
        check_count("resample", value)
    with pytest.raises(ValueError, match="resample must be at least 1, got 0"):
        check_count("resample", 0)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_strength_out_of_range_is_named(strength):
    with pytest.raises(ValueError, match=r"strength must be in \(0, 1\], got .*"):
        steps_to_run(strength, 50)


def test_eta_replaces_that_of_the_scheduler():
    assert with_eta(DPM2(churn=0.1), 0.5) == DPM2(eta=0.5, churn=0.1)
    assert with_eta(DDPM(), None) == DDPM()
    with pytest.raises(ValueError, match="eta cannot be set for DDPM"):
        with_eta(DDPM(), 0.5)
