"""Look-ups as runs: in the sequential loop's order, nested, each of them ended."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.documents import Document

from langchain_ralmspec import RaLMSpecRetriever, StoreError
from langchain_ralmspec.base.tracing import VERIFICATION, trace
from langchain_ralmspec.ralm import Request, sequential, speculative
from langchain_ralmspec.ralm.run import RetrievalRun
from langchain_ralmspec.speculation import Plan
from tests.unit_tests.fakes import FakeStore, always, follow, make_request
from tests.unit_tests.ralm.test_identity import plans, requests, stores
from tests.unit_tests.tracer import Recorder, told

LONG: dict[str, Any] = {"max_tokens": 40, "end_bias": -9}


@pytest.fixture(scope="module")
def retriever() -> RaLMSpecRetriever:
    return RaLMSpecRetriever.from_documents([Document("word")], kind="bm25")


def watched(
    request: Request, events: Any, retriever: RaLMSpecRetriever, *handlers: Any
) -> RetrievalRun:
    """An answer of a model's run that handlers are told of."""
    run = RetrievalRun(events, request)
    manager = CallbackManager(list(handlers), list(handlers))
    (model_run,) = manager.on_llm_start({}, ["?"], name="model")
    trace(run, retriever, model_run)
    return run


def end(recorder: Recorder) -> None:
    """The model's run is the caller's to end."""
    (left,) = recorder.run_map.values()
    assert left.run_type == "llm"
    recorder.on_llm_error(ValueError(), run_id=left.id)
    recorder.check()


def traced(
    request: Request, events: Any, retriever: RaLMSpecRetriever, n: int | None = None
) -> Recorder:
    """What a tracer keeps of an answer that is left after ``n`` pieces."""
    recorder = Recorder()
    pieces: Any = iter(watched(request, events, retriever, recorder))
    for _ in islice(pieces, n):
        pass
    pieces.close()
    end(recorder)
    return recorder


@settings(max_examples=300)
@given(stores, requests, plans, st.none() | st.integers(0, 4))
def test_both_loops_are_told_as_the_same_look_ups(
    retriever: RaLMSpecRetriever,
    store: dict[str, Any],
    request: dict[str, Any],
    given_plans: list[Plan],
    n: int | None,
) -> None:
    slow = make_request(FakeStore(**store), **request)
    fast = make_request(FakeStore(**store), **request)
    expected = traced(slow, sequential(slow), retriever).look_ups
    recorder = traced(fast, speculative(fast, follow(*given_plans)), retriever, n)
    assert recorder.look_ups == expected[: len(recorder.look_ups)]
    if n is not None:
        return
    assert recorder.look_ups == expected
    stats, verdicts = fast.stats, recorder.verdicts
    assert verdicts.count("proven") == stats.proven_guesses
    assert verdicts.count("right") == stats.right_guesses - stats.proven_guesses
    assert verdicts.count("wrong") == stats.guesses - stats.right_guesses
    for run in recorder.kinds("retriever"):
        is_verified = told(run)["ralmspec_guess"] in {"right", "wrong"}
        above = VERIFICATION if is_verified else "model"
        assert recorder.named(recorder.above(run)) == above
    used = [run.outputs for run in recorder.kinds("chain")]
    assert [each["n_right"] for each in used if each and each["is_used"]] == [
        sum(told(child)["ralmspec_guess"] == "right" for child in run.child_runs)
        for run in recorder.kinds("chain")
        if run.child_runs
    ]


class Stubborn(Recorder):
    """Raises when a verification ends, and wants to be heard."""

    raise_error = True

    def on_chain_error(self, *given: Any, **more: Any) -> Any:
        super().on_chain_error(*given, **more)
        raise ConnectionError("nobody is there")


@pytest.mark.parametrize("listener", [Recorder, Stubborn])
@pytest.mark.parametrize("in_flight", [0, 2])
def test_a_store_that_fails_ends_its_run(
    retriever: RaLMSpecRetriever, in_flight: int, listener: type[Recorder]
) -> None:
    failed = []
    for plan in (None, always(2, in_flight=in_flight)):
        request = make_request(FakeStore(4, fail_after=2), **LONG)
        events = speculative(request, plan) if plan else sequential(request)
        recorder = listener()
        with pytest.raises(StoreError):
            list(watched(request, events, retriever, recorder))
        # As many as are out, which is for threads to say.
        failed.append({run.name for run in recorder.runs if run.error})
        end(recorder)
    assert failed == [{retriever.get_name()}, {VERIFICATION}]


class Deaf(BaseCallbackHandler):
    """Raises whatever it is told."""

    def __init__(self, *, raise_error: bool) -> None:
        self.raise_error = raise_error

    def on_retriever_start(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("nobody is there")


def test_a_handler_that_fails_does_what_langchain_lets_it(
    retriever: RaLMSpecRetriever, caplog: pytest.LogCaptureFixture
) -> None:
    request = make_request(FakeStore(4), **LONG)
    plain = "".join(RetrievalRun(sequential(request), request))
    for raise_error in (False, True):
        request, recorder = make_request(FakeStore(4), **LONG), Recorder()
        deaf = Deaf(raise_error=raise_error)
        run = watched(request, sequential(request), retriever, recorder, deaf)
        if raise_error:
            with pytest.raises(ConnectionError):
                list(run)
        else:
            assert "".join(run) == plain
            assert "nobody is there" in caplog.text
            end(recorder)


def test_nothing_is_built_where_nobody_listens(retriever: RaLMSpecRetriever) -> None:
    request = make_request(FakeStore(4), **LONG)
    heard: list[list[BaseCallbackHandler]] = [[], [Recorder()]]
    for handlers in heard:
        manager = CallbackManager(handlers, [])  # such as the model's own alone
        (model_run,) = manager.on_llm_start({}, ["?"])
        run = RetrievalRun(sequential(request), request)
        trace(run, retriever, model_run)
        assert run.observer is None
