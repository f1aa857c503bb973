"""The site's pages have what readers look for; `make docs` checks its links."""

import re
from pathlib import Path

import pytest

import langchain_ralmspec
from langchain_ralmspec import errors

DOCS = Path(__file__).resolve().parents[2] / "docs"
API = "".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
PUBLIC = sorted({*langchain_ralmspec.__all__} - {"__version__"})


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_on_an_api_page(name: str) -> None:
    assert f"::: langchain_ralmspec.{name}\n" in API


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_can_be_shown_as_markdown(name: str) -> None:
    documented = getattr(langchain_ralmspec, name)
    own = vars(documented).values() if isinstance(documented, type) else ()
    kinds = [each for each in own if callable(each)]
    for each in (documented, *kinds):
        assert not re.search(r":\w+:`|^\s*\.\. ", each.__doc__ or "", re.MULTILINE)


def test_troubleshooting_has_every_error() -> None:
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    raised = [
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.RaLMSpecError)
    ]
    assert [name for name in raised if f"`{name}`" not in page] == []


def test_troubleshooting_quotes_what_is_said() -> None:
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    quoted = re.findall(r"(?<!\*)\*([^*\n]{4,}?)\*(?!\*)", page)
    assert quoted
    sources = "".join(
        path.read_text("utf-8")
        for path in (DOCS.parent / "langchain_ralmspec").rglob("*.py")
    )
    said = re.sub(r'"\s*f?"', "", sources)  # literals that are one when run
    parts = [part.strip() for each in quoted for part in each.split("…")]
    assert [part for part in parts if part not in said] == []
