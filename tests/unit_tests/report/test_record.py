"""What is read is checked, and what is wrong is quoted."""

import json
from typing import Any

import pytest

from langchain_ralmspec import InvalidValueError
from langchain_ralmspec.report import Record
from tests.unit_tests.report.records import HOSTILE, long_record, token_record


@pytest.mark.parametrize("text", [" word", HOSTILE])
def test_what_is_saved_is_what_is_read(text: str) -> None:
    for record in (long_record(12, text), token_record(text=text)):
        saved = record.to_json()
        assert saved.isascii()
        assert Record.read(saved, "it") == record


def changed(*path: Any, to: Any) -> str:
    saved = json.loads(long_record(12).to_json())
    place = saved
    for name in path[:-1]:
        place = place[name]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(saved)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("", "EOF"),
        ("[1, 2", "EOF"),
        ("[1]", "[1]"),
        (changed("version", to=2), "version: Input should be 1, got 2"),
        (changed("format", to="x"), "format: Input should be 'ralmspec-run', got 'x'"),
        (changed("method", to=None), "method: Field required"),
        (changed("method", to="FLARE"), "got 'FLARE'"),
        (changed("more", to=1), "more: Extra inputs are not permitted, got 1"),
        (changed("steps", 3, "start", to=99), "steps.3: Value error, it ends at"),
        (changed("steps", 3, "start", to="soon"), "steps.3.start: "),
        (changed("steps", 3, "end", to=float("inf")), "steps.3.end: "),
        (changed("steps", 3, "end", to=-1), "greater than or equal to 0, got -1"),
        (changed("steps", 3, "documents", to=[7]), "steps.3 stands on document 7"),
        (changed("steps", 3, "sources", to=["a"]), "steps.3 names 1 sources of 4"),
        (changed("spans", 0, "part", to="x y"), "spans.0.part: "),
        (changed("figures", "seconds", to="1 s"), "figures.seconds: "),
        (changed("counts", "plans", to={"a": 1.5}), "counts.plans.a: "),
        (changed("documents", 0, to={"id": 1}), "documents.0.id: "),
    ],
)
def test_what_is_wrong_is_quoted(text: str, quoted: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        Record.read(text, "'run.json'")
    said = str(caught.value)
    assert said.startswith("'run.json' is no saved run of version 1: ")
    assert quoted in said
    assert said.endswith("write one with run.to_json()")
    assert len(said) < 400
