"""Links that lead out of docs/: to a page of the site where there is one, otherwise plain text."""

import re
from typing import Any

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>\.\./[^)#]+)(?P<anchor>#[^)]*)?\)")
STUDY = re.compile(r"\.\./experiments/(?P<name>\w+)/(?P<file>\w+)\.md")


def site_link(match: re.Match[str]) -> str:
    """The link as the site has it: studies are pages, files of the source tree are named without a link."""
    study = STUDY.fullmatch(match["target"])
    if study is None:
        return match["text"]
    name = study["name"] if study["file"] == "README" else f"{study['name']}_{study['file']}"
    return f"[{match['text']}](studies/{name}.md)"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrites the links of one page."""
    return LINK.sub(site_link, markdown) if page.file.generated_by is None else markdown
