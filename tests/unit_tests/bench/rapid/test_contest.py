import gc
import warnings
from typing import Any

import pytest

from langchain_ralmspec.bench.rapid.contest import (
    SIZES,
    Library,
    LongContest,
    _costs,
)
from langchain_ralmspec.bench.rapid.documents import Sample
from langchain_ralmspec.bench.rapid.policies import n_agreeing
from tests.unit_tests.bench.rapid.fakes import FakeChain, FakeEngine, Letters

CONTEXT = "eeeeeee.iiiiiii.ooooooo.aaaaaaa."
SAMPLES = [Sample(CONTEXT, f"question {n}?", ("cat",)) for n in range(3)]


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # takes long in a test run


def a_contest(*, reads_disk: bool = False, **answers: str) -> LongContest:
    engine = FakeEngine()
    engine.folder = set() if reads_disk else None
    log: list[tuple[str, str, str]] = []
    chains: dict[str, Any] = {
        "plain": FakeChain("plain", engine, log),
        "rag": FakeChain("rag", engine, log, a_token=0.5),
        "SD": FakeChain("SD", engine, log, a_token=0.25, drafts=True),
    }
    for row, answer in answers.items():
        chains[row].answer = answer
    return LongContest(chains, Library(Letters()), reads_disk=reads_disk)


def log_of(contest: LongContest) -> list[tuple[str, str, str]]:
    chain: Any = contest.chains["plain"]
    log: list[tuple[str, str, str]] = chain.log
    return log


def engine_of(contest: LongContest) -> FakeEngine:
    engine: Any = contest.chains["plain"].engine
    assert isinstance(engine, FakeEngine)
    return engine


def test_a_context_is_read_once_and_timed_cold() -> None:
    contest = a_contest()
    asked = [contest.ask(sample, SAMPLES[-1]) for sample in SAMPLES[:2]]
    assert [one.is_first for one in asked] == [True, False]
    assert asked[0].opening is asked[1].opening
    assert asked[0].opening.first == 10.0
    assert asked[0].opening.disk is None
    # Every row finds it in memory.
    for one in asked:
        assert one.answers["plain"].stats.first_token == pytest.approx(0.1, abs=0.01)
        assert one.answers["SD"].stats.first_token == pytest.approx(0.1, abs=0.01)
    assert contest.ask(Sample("another", "why?"), SAMPLES[-1]).is_first
    # A folder is read once more.
    opening = a_contest(reads_disk=True).ask(SAMPLES[0], SAMPLES[1]).opening
    assert (opening.first, opening.disk) == (10.0, 1.0)


def test_only_the_first_context_is_warmed_up_on_and_never_rag() -> None:
    contest = a_contest()
    contest.ask(SAMPLES[0], SAMPLES[2])
    warm = [row for row, question, _ in log_of(contest) if question == "question 2?"]
    assert warm == ["plain", "SD"]
    contest.ask(Sample("another", "why?"), SAMPLES[2])
    assert sum(question == "question 2?" for _, question, _ in log_of(contest)) == 2


def test_rag_reads_what_is_retrieved_and_nothing_else() -> None:
    contest = a_contest()
    asked = contest.ask(Sample(CONTEXT, "ooooooo?"), SAMPLES[1])
    (read,) = [context for row, _, context in log_of(contest) if row == "rag"]
    assert "ooooooo" in read
    assert len(read) < len(CONTEXT)
    assert set(asked.opening.indexing) == {"rag", "SD"}
    # Its own retrieval is on its clock.
    stats = asked.answers["rag"].stats
    assert 0 < stats.seconds_preparing < stats.first_token
    assert stats.first_token > 10.0


def test_passes_are_timed_behind_every_prompt() -> None:
    contest = a_contest()
    for sample in SAMPLES:
        answers = contest.ask(sample, SAMPLES[-1]).answers
        assert list(answers) == ["plain", "rag", "SD"]
    assert [asked.costs.sizes for asked in contest.asked] == [list(SIZES)] * 3
    # Before the answers and behind them, which fall into the same spell of the machine.
    assert engine_of(contest).scored == list(SIZES) * 2 * 3


def test_a_pass_costs_the_mean_of_before_and_after_and_a_token_plain_decoding() -> None:
    asked = a_contest().ask(SAMPLES[0], SAMPLES[-1])
    plain = asked.answers["plain"]
    assert asked.costs(1) == plain.decoding / plain.n_decoded
    before, after = {1: 7.0, 4: 2.0, 8: 3.0}, {1: 7.0, 4: 4.0, 8: 3.5}
    costs = _costs(before, after, plain)
    assert (costs(4), costs(8)) == (3.0, 3.25)
    assert costs(1) == plain.decoding / plain.n_decoded
    nothing = a_contest(plain="t", SD="t", rag="t").ask(SAMPLES[0], SAMPLES[-1])
    assert nothing.answers["plain"].n_decoded == 0
    assert nothing.costs(1) > 0, "timed by itself, then"


def test_a_divergence_is_placed_and_its_margin_measured() -> None:
    contest = a_contest(SD="the dog", rag="anything")
    (found,) = contest.ask(SAMPLES[0], SAMPLES[1]).divergences
    assert (found.row, found.position) == ("SD", 4)
    assert (found.plain, found.other) == ("c", "d")
    # Behind the prompt the fake's margin is 1, and one more with every token.
    assert found.margin == 1 + 4
    # An answer that goes on diverges at the end.
    contest = a_contest(SD="the cat sat on")
    (found,) = contest.ask(SAMPLES[0], SAMPLES[1]).divergences
    assert (found.position, found.plain, found.other) == (11, None, " ")
    assert found.margin == 12


@pytest.mark.parametrize(
    ("one", "other", "at"),
    [("abc", "abd", 2), ("abc", "ab", 2), ("", "a", 0), ("xbc", "abc", 0)],
)
def test_where_answers_part(one: str, other: str, at: int) -> None:
    assert n_agreeing([*map(ord, one)], [*map(ord, other)]) == at


def test_the_token_that_ends_an_answer_was_decoded_too() -> None:
    contest = a_contest()
    chain: Any = contest.chains["SD"]
    chain.finish_reason = "stop"
    answers = contest.ask(SAMPLES[0], SAMPLES[1]).answers
    n_letters = len("the cat sat")
    assert answers["plain"].n_decoded == n_letters - 1
    assert answers["SD"].n_decoded == n_letters
    # All behind the first token is decoding.
    answer = answers["SD"]
    assert answer.decoding == pytest.approx(2.5)
    answer.stats.seconds += 4.0  # whatever it was for
    assert answer.decoding == pytest.approx(6.5)


def test_only_truncation_is_silent() -> None:
    contest = a_contest()
    chain: Any = contest.chains["plain"]
    start = chain.start

    def warns(question: str, context: str) -> Any:
        warnings.warn("the last 5 of the context's 9 tokens", RuntimeWarning, 2)
        if question == "loud":
            warnings.warn("the drafter failed", RuntimeWarning, 2)
        return start(question, context)

    chain.start = warns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contest.ask(SAMPLES[0], SAMPLES[1])
        with pytest.raises(RuntimeWarning, match="drafter"):
            contest.ask(Sample(CONTEXT, "loud"), SAMPLES[1])
