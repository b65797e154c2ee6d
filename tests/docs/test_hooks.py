"""The generated pages of the site: config reference, studies, API reference, links out of docs/."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "docs" / "hooks"


def hook(name):
    """A hook as mkdocs loads it, by its path."""
    spec = importlib.util.spec_from_file_location(f"docs_hook_{name}", HOOKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def config_reference():
    return hook("config_reference")


@pytest.fixture(scope="module")
def studies():
    return hook("studies")


def test_comments_belong_to_the_keys_below_or_beside_them(config_reference):
    text = (
        "# the file\n_target_: a.B\n# first\n# line\nlr: 1.0\nbare: 2\nbeside: 3  # next to it\n  # inner\n"
    )
    head, said = config_reference.comments(text)
    assert head == "the file"
    assert said["lr"] == "first line"
    assert said["bare"] == ""
    assert said["beside"] == "next to it"


def test_a_comment_above_the_first_key_of_a_file_without_a_head_is_the_files(config_reference):
    assert config_reference.comments("# alone\nkey: 1\n") == ("alone", {"key": ""})


def test_every_command_and_group_has_a_page(config_reference):
    pages = config_reference.pages()
    assert {"index", "train", "sample", "group_scheduler", "group_data_buckets"} <= pages.keys()
    assert "`num_inference_steps`" in pages["sample"]
    for path in (ROOT / "conf" / "scheduler").glob("*.yaml"):
        assert f"## {path.stem} " in pages["group_scheduler"]


def test_the_experiments_are_documented_by_their_questions(config_reference):
    assert "What does a text-to-image model learn" in config_reference.pages()["group_experiment"]


def test_every_study_and_notebook_is_in_the_gallery(studies):
    gallery = studies.gallery()
    for folder in (p for p in (ROOT / "experiments").iterdir() if (p / "README.md").is_file()):
        assert f"({folder.name}.md)" in gallery
    for path in (ROOT / "experiments" / "notebooks").glob("*.ipynb"):
        assert f"(notebook_{path.stem}.md)" in gallery


def test_pictures_of_a_study_lead_to_its_folder(studies):
    page = studies.study_page(ROOT / "experiments" / "emoji" / "README.md")
    assert "![prompts](emoji/prompts.png)" in page


def test_a_notebook_becomes_text_code_and_pictures(studies):
    page = studies.notebook_page(ROOT / "experiments" / "notebooks" / "text2img.ipynb")
    assert page.startswith("# Text to image")
    assert "```python" in page
    assert "data:image/png;base64," in page


def test_links_of_a_notebook_lead_to_pages_of_the_site(studies):
    core = studies.notebook_page(ROOT / "experiments" / "notebooks" / "core.ipynb")
    assert "](../architecture.md)" in core
    samplers = studies.notebook_page(ROOT / "experiments" / "notebooks" / "samplers.ipynb")
    assert "](sampler_certificate_certificate.md)" in samplers


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](../experiments/emoji/README.md)", "[a](studies/emoji.md)"),
        ("[a](../experiments/sd_scale/plan.md)", "[a](studies/sd_scale_plan.md)"),
        ("[a](../src/ldm/diffusion/process.py)", "a"),
        ("[a](sampling.md#solvers)", "[a](sampling.md#solvers)"),
    ],
)
def test_links_out_of_the_docs_lead_to_pages_or_nowhere(link, expected):
    page = SimpleNamespace(file=SimpleNamespace(generated_by=None))
    assert hook("pages").on_page_markdown(link, page=page) == expected


def test_every_room_is_in_the_api_reference():
    reference = hook("api_reference")
    rooms = {p.name for p in (ROOT / "src" / "ldm").iterdir() if (p / "__init__.py").is_file()}
    assert set(reference.rooms()) == rooms - {"cli"}
    assert "ldm.diffusion.process" in reference.modules("diffusion")
