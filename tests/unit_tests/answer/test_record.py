"""What a run keeps for a report: all that was written, kept or not, and when."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from langchain_ralmspec.answer.record import record_of
from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.knnlm import generate as neighbours
from langchain_ralmspec.ralm import (
    RolledBack,
    Writer,
    once,
    sequential,
    speculative,
)
from langchain_ralmspec.ralm.run import RetrievalRun
from langchain_ralmspec.rapid import generate as drafts
from langchain_ralmspec.report import Record
from langchain_ralmspec.speculation import Plan
from tests.unit_tests.fakes import FakeStore, always, follow, make_request, piece
from tests.unit_tests.knnlm.test_identity import Case, Text
from tests.unit_tests.ralm.test_identity import plans, requests, stores
from tests.unit_tests.rapid.fakes import FakeModel, Oracle
from tests.unit_tests.rapid.fakes import make_request as long_request

LONG: dict[str, Any] = {"max_tokens": 40, "end_bias": -9}


def ran(loop: Any, request: Any, *more: Any) -> tuple[RetrievalRun, str]:
    run = RetrievalRun(loop(request, *more), request)
    return run, "".join(run)


def test_no_text_ends_or_begins_inside_a_character() -> None:
    run, _ = ran(sequential, make_request(FakeStore(3), **LONG))
    run.steps = [replace(run.steps[0], text="né".encode()[:-1])]
    assert run.text == "n"
    run.log = [(0.0, RolledBack(n_tokens=2, text="é!é".encode()[1:-1], since=0.0))]
    assert [back.text for back in record_of(run).roll_backs] == ["!"]


def written(record: Record) -> str:
    return "".join(piece for step in record.steps for piece in step.pieces)


@settings(max_examples=300)
@given(stores, requests, plans)
def test_the_record_tells_the_answer_and_all_that_was_taken_back(
    store: dict[str, Any], request: dict[str, Any], given_plans: list[Plan]
) -> None:
    built = make_request(FakeStore(**store), **request)
    run, text = ran(speculative, built, follow(*given_plans))
    record = record_of(run)
    assert written(record) == text
    assert sum(len(step.pieces) for step in record.steps) == run.stats.tokens_kept
    lost = [back.tokens for back in record.roll_backs]
    assert sum(lost) == run.stats.tokens_rolled_back
    visible = [len(back.text) for back in record.roll_backs]
    assert all(n <= tokens for n, tokens in zip(visible, lost, strict=True))
    assert len(record.calls) == run.stats.rounds
    proven = sum(step.origin == "proven" for step in record.steps)
    assert proven <= run.stats.proven_guesses
    used = dict.fromkeys(hit.id for step in run.steps for hit in step.hits)
    assert [passage.id for passage in record.documents] == list(used)
    assert Record.read(run.to_json(), "it") == record


def test_what_was_taken_back_is_told_as_it_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = make_request(FakeStore(n_documents=9), **LONG)
    seen: list[str] = []  # the whole text whenever some of it is taken back
    rewind = Writer.rewind

    def text() -> str:
        return b"".join(map(piece, request.transcript.tokens)).decode()

    def watched(writer: Writer, mark: int) -> None:
        seen.append(text())
        rewind(writer, mark)

    monkeypatch.setattr(Writer, "rewind", watched)
    for event in speculative(request, always(5)):
        if isinstance(event, RolledBack):
            assert event.text.decode() == seen[-1].removeprefix(text()) != ""
            assert len(event.text) == event.n_tokens
    assert seen, "the example must contain a wrong guess"


def test_seconds_on_the_timeline_are_those_that_were_counted() -> None:
    run, _ = ran(speculative, make_request(FakeStore(9), **LONG), always(3))
    record = record_of(run)
    for part in ("generating", "guessing", "waiting"):
        laid = [s.end - s.start for s in record.spans if s.part == part]
        counted = getattr(run.stats, f"seconds_{part}")
        assert counted > 0
        # Gaps of less than a millisecond are closed; times are in microseconds.
        assert counted - 1e-4 <= sum(laid) <= counted + 1e-3 * len(run.log) + 1e-4


def test_how_documents_were_known_is_told() -> None:
    def origins(loop: Any, *more: Any, **store: Any) -> set[str]:
        request = make_request(FakeStore(9, **store), **LONG, prefetch_k=20)
        return {step.origin for step in record_of(ran(loop, request, *more)[0]).steps}

    assert origins(sequential) == {"known"}
    assert "confirmed" in origins(speculative, always(3))
    assert "proven" in origins(speculative, always(3), tells_max_norm=True)


def test_an_answer_that_is_told_token_by_token_is_one_step() -> None:
    run, text = ran(once, make_request(FakeStore(9), **LONG))
    record = record_of(run)
    assert len(run.steps) == 40
    (step,) = record.steps
    assert "".join(step.pieces) == text
    assert len(record.documents) == 1


@pytest.mark.parametrize("stops", [(), ("c",)])
def test_tokens_are_told_with_who_proposed_them(stops: tuple[str, ...]) -> None:
    request = long_request(FakeModel(end_bias=-9), stops=stops)
    list(drafts(request))
    oracle = Oracle(
        [*request.transcript.tokens, 0], len(request.document) + len(request.tail)
    )
    again = long_request(FakeModel(end_bias=-9), stops=stops, drafters=[oracle])
    run = Run(drafts(again), again)
    text, record = "".join(run), record_of(run)
    assert record.method == "RAPID"
    assert written(record) == text
    told = {source for step in record.steps for source in step.sources}
    assert told == {"target", "oracle"} or stops


def test_neighbours_are_told() -> None:
    request = Text(Case((Plan("lookup", 4),))).request
    run = Run(neighbours(request, follow(Plan("lookup", 4))), request)
    text, record = "".join(run), record_of(run)
    assert record.method == "kNN-LM"
    assert written(record) == text
    assert {s for step in record.steps for s in step.sources} == {"target", "lookup"}


def test_an_unfinished_answer_has_a_record_and_a_page() -> None:
    request = make_request(FakeStore(9), **LONG)
    run = RetrievalRun(sequential(request), request)
    assert "Nothing has been written yet" in run.to_html()
    for _ in run:
        break
    record = record_of(run)
    assert record.finish_reason is None
    assert len(record.steps) == 1
    assert "<iframe" in run._repr_html_()
    assert '<h1 lang="" dir="auto">My title' in run.to_html("My title")


def test_nothing_is_laid_out_without_a_run_nor_told_in_metadata() -> None:
    request = make_request(FakeStore(9), **LONG)
    list(sequential(request))
    assert request.stats.spans is None
    run, _ = ran(sequential, make_request(FakeStore(9), **LONG))
    assert run.stats.spans
    assert "spans" not in run.stats.as_dict()
    assert run.stats.as_dict().keys() == SpeculationStats().as_dict().keys()


def test_a_character_of_several_tokens_stands_with_the_last() -> None:
    class Bytes:
        def piece(self, token: int) -> bytes:
            return bytes([token])

        def is_end(self, token: int) -> bool:
            return False

        def tokenize(self, text: str, *, special: bool = False) -> list[int]:
            raise AssertionError

    transcript = Transcript(Bytes(), max_tokens=99, stops=["!"])
    for token in "aé…!".encode():
        transcript.append(token)
    assert transcript.pieces(7) == ["a", "", "é", "", "", "…", ""]
    assert transcript.pieces(2) == ["a", ""]


def test_scores_are_no_part_of_it() -> None:
    """NaN, which is no JSON, is the score of a proven document."""
    store = FakeStore(9, tells_max_norm=True)
    run, _ = ran(speculative, make_request(store, **LONG, prefetch_k=20), always(3))
    assert any(math.isnan(hit.score) for step in run.steps for hit in step.hits)
    json.loads(run.to_json(), parse_constant=pytest.fail)
