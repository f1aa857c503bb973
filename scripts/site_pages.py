"""Pages of the site that lie outside docs/, where GitHub looks for them.

MkDocs calls what is here (``hooks`` in mkdocs.yml).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")

_TO_DOCS = re.compile(r"\]\(docs/")
_TO_EXAMPLE = re.compile(r"\]\(\.\./(examples/[\w.]+)\)")
_TO_OUTSIDE = re.compile(rf"\]\(\.\./({'|'.join(map(re.escape, OUTSIDE))})")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, under names in lower case, and the examples."""
    for name in OUTSIDE:
        text = _TO_DOCS.sub("](", (ROOT / name).read_text("utf-8"))
        files.append(File.generated(config, name.lower(), content=text))
    for path in sorted((ROOT / "examples").iterdir()):
        if path.is_file():
            name, content = f"examples/{path.name}", path.read_bytes()
            files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to these pages lead to where they are in the site."""
    markdown = _TO_EXAMPLE.sub(r"](\1)", markdown)
    return _TO_OUTSIDE.sub(lambda match: f"]({match[1].lower()}", markdown)
