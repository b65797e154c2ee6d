"""The gallery of studies: the pages and pictures of experiments/, and the notebooks, as pages of the site."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
NOTEBOOKS = EXPERIMENTS / "notebooks"
PICTURES = {".png", ".svg"}
# the order of the gallery; what is not named follows by name
ORDER = ("emoji", "emoji_large", "exact_resume", "sampler_certificate", "sampler_efficiency", "sd_scale")


def pages() -> dict[str, Path]:
    """Name of each study's page -> its Markdown file, in the order of the gallery."""
    found = {}
    for path in sorted(EXPERIMENTS.glob("*/*.md")):
        if "template" not in path.stem:
            folder = path.parent.name
            found[folder if path.stem == "README" else f"{folder}_{path.stem}"] = path
    rank = {name: i for i, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[1].parent.name, len(rank)), item[0])))


def title(markdown: str) -> str:
    """The first heading."""
    heading = re.search(r"^# (.+)$", markdown, re.M)
    return heading[1] if heading else "Results"


def study_page(path: Path) -> str:
    """A study's page with links that hold on the site."""
    folder = path.parent.name

    def link(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        if match["mark"] and (path.parent / target).suffix in PICTURES:
            return f"![{text}]({folder}/{target})"
        if (path.parent / target).suffix == ".md" and "/" not in target:
            return f"[{text}]({folder if target == 'README.md' else f'{folder}_{target[:-3]}'}.md)"
        return match[0] if target.startswith(("http", "#")) else text

    markdown = path.read_text()
    if not markdown.startswith("# "):
        markdown = f"# {folder.replace('_', ' ').capitalize()}: {path.stem}\n\n{markdown}"
    return re.sub(r"(?P<mark>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)]+)\)", link, markdown)


def notebook_page(path: Path) -> str:
    """A notebook as a page: text, code, printed text and pictures."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if picture := data.get("image/png"):
                parts.append(f'<img alt="output" src="data:image/png;base64,{"".join(picture).strip()}">')
            elif text := "".join(output.get("text", data.get("text/plain", ""))).strip():
                parts.append(f"```text\n{text}\n```")
    page = "\n\n".join(parts) + "\n"
    page = page.replace("](../../docs/", "](../")
    page = re.sub(r"\]\(\.\./(\w+)/README\.md\)", r"](\1.md)", page)
    return re.sub(r"\]\(\.\./(\w+)/(\w+)\.md\)", r"](\1_\2.md)", page)


def thumbnail(folder: Path) -> str:
    """The study's first picture, for the gallery."""
    names = ("prompts.png", "convergence.png", "efficiency.png")
    found = next((n for n in names if (folder / n).is_file()), None)
    return f"![]({folder.name}/{found}){{: .thumbnail }}" if found else ""


def gallery() -> str:
    """The page that lists all studies and notebooks."""
    lines = [
        "# Studies\n",
        "Each study asks one question and states the exact command, the result and its limits.\n",
    ]
    lines += ["| study | |", "|---|---|"]
    for name, path in pages().items():
        picture = thumbnail(path.parent) if path.stem in ("README", "certificate", "efficiency") else ""
        lines.append(f"| [{title(study_page(path))}]({name}.md) | {picture} |")
    lines += ["\n## Notebooks\n", "| notebook | file |", "|---|---|"]
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        heading = title(notebook_page(path))
        lines.append(f"| [{heading}](notebook_{path.stem}.md) | `experiments/notebooks/{path.name}` |")
    return "\n".join(lines) + "\n"


def on_config(config: Any) -> Any:
    """Adds the gallery to the navigation."""
    notebooks = [f"studies/notebook_{path.stem}.md" for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    studies = [f"studies/{name}.md" for name in pages()]
    config.nav.append({"Studies": ["studies/index.md", {"Studies": studies}, {"Notebooks": notebooks}]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and their pictures."""
    made: dict[str, str | bytes] = {"studies/index.md": gallery()}
    made |= {f"studies/{name}.md": study_page(path) for name, path in pages().items()}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        made[f"studies/notebook_{path.stem}.md"] = notebook_page(path)
    for folder in {path.parent for path in pages().values()}:
        for picture in (p for p in folder.iterdir() if p.suffix in PICTURES):
            made[f"studies/{folder.name}/{picture.name}"] = picture.read_bytes()
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files
