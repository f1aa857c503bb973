"""The code that we show runs as shown."""

import itertools
import re
import runpy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from langchain_ralmspec.assets.models import model_path
from langchain_ralmspec.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXPORTER = "opentelemetry.exporter.otlp.proto.http"
TWO_STEPS = ROOT / "examples" / "agent_two_steps.py"
EXAMPLES = sorted({*(ROOT / "examples").glob("*.py")} - {TWO_STEPS})
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def _folder_of_the_reader(
    gguf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in which the README's ``ln -s`` commands were run."""
    (tmp_path / "model.gguf").symlink_to(gguf)
    (tmp_path / "minilm").symlink_to(model_path("minilm"))
    monkeypatch.chdir(tmp_path)


def blocks_of(page: Path) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
    )


def test_there_is_code_to_run() -> None:
    assert blocks_of(ROOT / "README.md")
    assert EXAMPLES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_of_a_page(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": page.name}
    for block in blocks_of(page):  # one reads on from the other
        exec(compile(block, page.name, "exec"), namespace)  # noqa: S102  our own page


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_example(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if file.name == "traces.py":
        pytest.importorskip(EXPORTER, reason="langsmith[otel] is not installed")
    runpy.run_path(str(file), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.slow
def test_an_agent_looks_up_what_it_has_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a model that sees when to call: ``make test`` installs it."""
    try:
        (tmp_path / "qwen.gguf").symlink_to(model_path("qwen2.5-coder-1.5b"))
    except MissingExtraError as error:
        pytest.skip(str(error))
    shown = runpy.run_path(str(TWO_STEPS), run_name="__main__")
    messages = shown["agent"].get_state(shown["thread"]).values["messages"]
    found = [message.text for message in messages if message.type == "tool"]
    assert "Oslo" in found[0]
    assert any("555 0142" in text for text in found[1:])
    first, resumed = capsys.readouterr().out.split("What is the name of that person?")
    assert "555 0142" in first.splitlines()[-1]
    assert "Solberg" in resumed
    after_tool = [m for a, m in itertools.pairwise(messages) if a.type == "tool"]
    assert not after_tool[-1].tool_calls


def test_spans_of_look_ups_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(EXPORTER, reason="langsmith[otel] is not installed")

    def refuse(*_: object) -> None:
        pytest.fail("something is sent")

    monkeypatch.setattr("socket.socket.connect", refuse)
    spans = runpy.run_path(str(ROOT / "examples" / "traces.py"))["spans"]
    by_id = {span.context.span_id: span for span in spans}
    names = {span.name for span in spans}
    assert names == {"ChatRaLMSpec", "RaLMSpecRetriever", "ralmspec_verification"}
    above = [by_id[span.parent.span_id].name for span in spans if span.parent]
    assert len(above) == len(spans) - 1
    assert {*above} == {"ChatRaLMSpec", "ralmspec_verification"}


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_notebook(file: Path, tmp_path: Path) -> None:
    notebook = nbformat.reads(file.read_text("utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, resources=where).execute()


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*PAGES, *(ROOT / "docs" / "api").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
