"""Reports about real answers, and what a real browser makes of a page."""

import html
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec import ChatRaLMSpec, RaLMSpecRetriever, RapidChain
from langchain_ralmspec.report import Record, page
from tests.integration_tests.conftest import QUESTIONS, Corpus
from tests.unit_tests.cli.shell import run as command
from tests.unit_tests.report.records import HOSTILE, long_record, token_record

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def test_a_real_answer_has_a_report(
    gguf: str, retriever: RaLMSpecRetriever, tmp_path: Path
) -> None:
    chat = ChatRaLMSpec(
        model_path=gguf, retriever=retriever, max_tokens=24, speculation_stride=3
    )
    run = chat.start(QUESTIONS[0])
    text = "".join(run)
    saved = tmp_path / "run.json"
    saved.write_text(run.to_json(), "utf-8")
    record = Record.read(run.to_json(), "it")
    assert record.method == "RaLMSpec"
    assert record.question == QUESTIONS[0]
    assert "".join(piece for step in record.steps for piece in step.pieces) == text
    assert {"reading", "generating", "waiting"} <= {s.part for s in record.spans}
    assert [passage.id for passage in record.documents] == list(
        dict.fromkeys(hit.id for step in run.steps for hit in step.hits)
    )
    # Spans lie within the answer, in order, one at a time but for reading.
    alone = [span for span in record.spans if span.part != "reading"]
    assert all(a.end <= b.start + 1e-5 for a, b in pairwise(alone))
    assert command("report", str(saved), "-o", str(tmp_path / "it.html")) == 0
    assert (tmp_path / "it.html").read_text("utf-8") == run.to_html()


def test_a_drafted_answer_has_a_report(gguf: str, corpus: Corpus) -> None:
    chain = RapidChain(model_path=gguf, max_tokens=16, drafter="lookup", draft_length=3)
    run = chain.start("What is said?", corpus.texts[0])
    text = "".join(run)
    record = Record.read(run.to_json(), "it")
    assert record.method == "RAPID"
    assert record.question == "What is said?"
    assert "".join(piece for step in record.steps for piece in step.pieces) == text
    assert {"prefilling", "verifying"} <= {span.part for span in record.spans}


HARNESS = """<!doctype html><meta charset="utf-8"><body><script>
const seen = [];
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement;
  const all = (what) => [...page.querySelectorAll(what)];
  seen.push({
    overflow: root.scrollWidth - root.clientWidth,
    scripts: all("script, img").length,
    alerted: frame.contentWindow.alerted === true,
    flat: all("rect").filter((r) => !(r.getBoundingClientRect().height > 0)).length,
    rects: all("rect").length,
    answer: all(".answer span").map((each) => each.textContent).join(""),
  });
  document.body.dataset.seen = JSON.stringify(seen);
}
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or pytest.skip("no Chromium is installed")


def seen_by(browser: str, pages: list[str], folder: Path) -> list[dict[str, Any]]:
    """What a browser finds in pages that are 400 and 1280 pixels wide."""
    frames = [
        f'<iframe onload="look(this)" style="width: {width}px; height: 600px" '
        f'srcdoc="{html.escape(each)}"></iframe>'
        for each in pages
        for width in (400, 1280)
    ]
    harness = folder / "harness.html"
    harness.write_text(HARNESS + "".join(frames), "utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    profile = f"--user-data-dir={folder / 'profile'}"
    told = subprocess.run(  # noqa: S603  the machine's own browser
        [browser, *flags, profile, harness.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    ).stdout.decode()
    found = re.search(r'data-seen="([^"]*)"', told)
    assert found, told[:500]
    return list(json.loads(html.unescape(found[1])))


def test_a_browser_shows_the_page_and_runs_nothing_in_it(
    browser: str, tmp_path: Path
) -> None:
    records = [long_record(1), long_record(500), long_record(12, HOSTILE)]
    records.append(token_record(text=HOSTILE))
    seen = seen_by(browser, list(map(page, records)), tmp_path)
    assert len(seen) == 2 * len(records)
    for each in seen:
        assert each["overflow"] <= 0, "only the timeline may be wider than the page"
        assert each["scripts"] == each["flat"] == 0
        assert not each["alerted"]
        assert each["rects"] > 0
    assert sorted(each["answer"].count(" word") for each in seen)[-4:] == [
        *(4, 4, 2000, 2000)
    ]
