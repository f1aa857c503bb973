"""A text that is being continued, piece by piece."""

from dataclasses import replace

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.knnlm import (
    generate,
)
from langchain_ralmspec.speculation import Plan
from tests.unit_tests.fakes import follow
from tests.unit_tests.knnlm.test_identity import Case, Text


def test_the_text_is_cut_at_a_stop_string_and_the_clock_runs() -> None:
    case = Case(max_tokens=60)
    _, whole, _ = Text(case).write(None).story
    stop = whole[20:22].decode()
    text = Text(replace(case, stops=(stop,)))
    run = Run(generate(text.request, follow(Plan("lookup", 4))), text.request)

    assert "".join(run) == whole.decode().partition(stop)[0]
    assert run.finish_reason == "stop"
    assert run.tokens == [letter - ord("a") for letter in whole[: len(run.tokens)]]
    stats = run.stats
    parts = stats.seconds_generating + stats.seconds_waiting + stats.seconds_guessing
    assert 0 < parts < stats.seconds
    assert stats.seconds_searching < stats.seconds_waiting


def test_nothing_happens_before_the_first_iteration() -> None:
    text = Text(Case())
    run = iter(Run(generate(text.request, None), text.request))
    assert not text.paths
    next(run)
    assert text.paths
