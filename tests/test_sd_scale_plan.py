"""ldm-plan against published runs of Stable Diffusion 2 (MosaicML), and the report of both checks."""

import importlib.util
import re
from pathlib import Path

import pytest

from ldm.planning.simulate import Setting, simulate

FOLDER = Path(__file__).parents[1] / "experiments" / "sd_scale"


def cells(start):
    """The rows of plan.md that begin with a pattern."""
    lines = (FOLDER / "plan.md").read_text().splitlines()
    return [[c.strip() for c in line.strip("| ").split("|")] for line in lines if re.match(start, line)]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("plan_script", FOLDER / "plan.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plans(script):
    """The plans of both phases by the number of GPUs."""
    stage = script.stages_of(script.composed("experiment=sd2_base", "task.cache_latents=false"))[-1]
    setting = Setting(precision="bf16-mixed", gpu=True, precomputed=True)
    steps = {s: {False: simulate(stage.make, setting, s, batches=(2,))} for s in script.IMAGES}
    clusters = {n: script.cluster_of(f"cluster.nodes={n // 8}") for n in script.PUBLISHED}
    return {n: script.speeds(steps, cluster) for n, cluster in clusters.items()}


@pytest.mark.slow
def test_speed_on_eight_gpus_and_days_on_any_number_are_within_a_tenth_of_the_published(script, plans):
    for image_size, published in zip(script.IMAGES, script.PUBLISHED[8], strict=False):
        assert plans[8][image_size].images_per_second == pytest.approx(published, rel=0.1)
    for devices, (_, _, days) in script.PUBLISHED.items():
        assert sum(p.days for p in plans[devices].values()) == pytest.approx(days, rel=0.1), devices


@pytest.mark.slow
def test_the_report_says_what_the_plans_are(script, plans):
    rows = {int(row[0]): row for row in cells(r"\| \d+ \|")}
    assert rows.keys() == script.PUBLISHED.keys()
    for devices, row in rows.items():
        speeds = [f"{p.images_per_second:,.0f}" for p in plans[devices].values()]
        assert [row[1], row[4]] == speeds


def test_the_report_has_all_cases_with_the_allocators_peak_within_a_tenth(script):
    rows = cells(r"\| (emoji|SD 1\.5)")
    assert len(rows) == len(script.CASES)
    assert all(abs(float(row[6].rstrip("%"))) < 10 for row in rows)
