"""The page: well-formed whatever is in it, readable, and with nothing that runs."""

import re
from collections.abc import Callable
from importlib.resources import files
from xml.etree.ElementTree import Element

import html5lib
import pytest

from langchain_ralmspec import report
from langchain_ralmspec.report import Record, embedded, page
from langchain_ralmspec.report.lanes import Axis
from langchain_ralmspec.report.words import seconds
from tests.unit_tests.report.records import (
    HOSTILE,
    long_record,
    record_with,
    token_record,
)

RECORDS: dict[str, Callable[[str], Record]] = {
    "empty": lambda text: record_with(question=text),
    "one step": lambda text: long_record(1, text),
    "500 steps": lambda text: long_record(500, text),
    "RAPID": lambda text: token_record("RAPID", text),
    "kNN-LM": lambda text: token_record("kNN-LM", text),
}
RECT = "{http://www.w3.org/2000/svg}rect"


def parsed(html: str) -> Element:
    """The page's elements; whatever the HTML standard calls an error is one."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    root: Element = parser.parse(html)
    return root


def classes(root: Element, name: str, kind: str) -> list[Element]:
    return [each for each in root.iter(name) if kind in each.get("class", "").split()]


def text_of(element: Element | None) -> str:
    assert element is not None
    return "".join(element.itertext())


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize("text", [" word", HOSTILE])
def test_whatever_is_in_it_the_page_is_well_formed_and_inert(
    kind: str, text: str
) -> None:
    html = page(RECORDS[kind](text), title=text if kind == "RAPID" else None)
    root = parsed(html)
    html.encode()
    names = {each.tag for each in root.iter()}
    assert not names & {"script", "img", "link", "iframe", "object", "b"}
    for element in root.iter():
        assert not [name for name in element.attrib if str(name).startswith("on")]
        assert element.get("href", "#").startswith("#")
        assert "src" not in element.attrib
    policy = root.find(".//meta[@http-equiv]")
    assert policy is not None
    assert policy.get("content", "").startswith("default-src 'none'")
    assert len(list(root.iter("style"))) == len(list(root.iter("head"))) == 1
    assert "url(" not in html
    assert not re.search("[\x00-\x08\x0e-\x1f\u202a-\u202e\u2066-\u2069]", html)


@pytest.mark.parametrize("kind", RECORDS)
def test_everything_has_a_name_and_every_link_a_target(kind: str) -> None:
    root = parsed(page(RECORDS[kind](" word")))
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    for element in root.iter():
        target = element.get("href", "")[1:] or element.get("aria-labelledby")
        assert not target or target in ids
        if element.get("role") in {"img", "group"}:
            assert element.get("aria-label")
    for scrolled in classes(root, "div", "scroll"):
        assert scrolled.get("tabindex") == "0", "keys must reach what scrolls"
    levels = [e.tag for e in root.iter() if e.tag in {"h1", "h2", "h3"}]
    assert levels[0] == "h1"
    assert levels.count("h1") == 1


def test_the_answer_stands_there_with_what_was_taken_back_in_its_place() -> None:
    record = long_record(12)
    root = parsed(page(record))
    (answer,) = classes(root, "div", "answer")
    kinds = [each.get("class") for each in answer if each.tag in {"span", "del"}]
    origins = [step.origin for step in record.steps]
    assert kinds == [*origins[:7], "back", *origins[7:]]
    kept = [text_of(each) for each in answer.iter("span")]
    assert "".join(kept) == " word" * 48
    assert [text_of(each) for each in answer.iter("del")] == [" word" * 4]
    voids = classes(root, RECT, "void")
    assert len(voids) == 1
    (rows,) = classes(root, "table", "rows")
    assert len(list(rows.iter("tr"))) == 1 + 12 + 1 + 1


def test_tokens_are_told_apart_by_who_proposed_them() -> None:
    root = parsed(page(token_record(text=" word")))
    (answer,) = classes(root, "div", "answer")
    parts = [(each.get("class"), text_of(each)) for each in answer]
    assert parts == [("s0", " word"), ("s1", " word word"), ("s2", " word")]
    legend = [text_of(each) for each in root.iter("li")]
    assert {
        "abcthe target's own",
        "abcproposed by  word",
        "abcproposed by lookup",
    } <= set(legend)


def test_long_answers_are_given_room_and_short_ones_none() -> None:
    for n_steps, is_wide in ((1, False), (500, True)):
        (lanes,) = classes(parsed(page(long_record(n_steps))), "div", "lanes")
        assert ("min-width" in lanes.get("style", "")) == is_wide


def test_what_lies_too_near_to_be_seen_apart_is_drawn_as_one() -> None:
    (lanes,) = classes(parsed(page(long_record(2000))), "div", "lanes")
    rects = list(lanes.iter(RECT))
    assert 0 < len(rects) < 5000
    for rect in rects:
        assert 0 <= float(rect.get("x", "")) <= 1000
        assert float(rect.get("width", "")) > 0


def test_in_a_notebook_the_page_stands_in_a_frame_of_its_own() -> None:
    record = long_record(2, HOSTILE)
    fragment = html5lib.parseFragment(
        embedded(record), treebuilder="etree", namespaceHTMLElements=False
    )
    (frame,) = fragment
    assert frame.tag == "iframe"
    assert "sandbox" in frame.attrib
    assert frame.get("srcdoc") == page(record)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *(
            (0, "0 s"),
            (2e-7, "0 s"),
            (3e-6, "0.003 ms"),
            (0.0123, "12.3 ms"),
            (1.5, "1.5 s"),
        ),
        *((119, "119 s"), (150, "2.5 min"), (1e8, "1,666,666.7 min")),
    ],
)
def test_times_are_said_as_people_say_them(value: float, said: str) -> None:
    assert seconds(value) == said


@pytest.mark.parametrize("length", [1e-3, 0.07, 0.999, 1.0, 3.21, 61, 1e8])
def test_the_axis_has_some_round_ticks(length: float) -> None:
    for pixels, most in ((0, 5), (4000, 20)):
        ticks = Axis(length).ticks(pixels)
        assert most / 2 <= len(ticks) <= most
        assert ticks[0].label == "0 s"
        assert all(0 <= float(tick.left) < 100 for tick in ticks)


def themes() -> list[dict[str, str]]:
    style = files(report).joinpath("page.css").read_text("utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    pattern = r"--([\w-]+): (#[0-9a-f]{6});"
    return [dict(re.findall(pattern, theme)) for theme in (light, dark)]


def contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", themes(), ids=["light", "dark"])
def test_text_and_marks_stand_out(theme: dict[str, str]) -> None:
    grounds = ["page", "panel", "confirmed", "proven", "s1", "s2", "s3", "s4", "s5"]
    for ground in grounds:
        assert contrast(theme["ink"], theme[ground]) >= 7, ground
        assert contrast(theme["link"], theme[ground]) >= 4.5, ground
    for ground in ("page", "panel"):
        assert contrast(theme["faint"], theme[ground]) >= 4.5
        for mark in ("writing", "reading", "void", "guessing", "waiting", "call"):
            assert contrast(theme[mark], theme[ground]) >= 3, mark
    assert contrast(theme["back-ink"], theme["back"]) >= 4.5
