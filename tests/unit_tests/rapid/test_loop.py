"""What the loop tells the scheduler and the caller, by a clock that we set."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import pytest

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.rapid import Draft, DraftStats, LongRequest, generate
from langchain_ralmspec.speculation import Cost, Scheduler
from langchain_ralmspec.speculation.calibration import PRIOR_CHANCE, PRIOR_WEIGHT
from tests.unit_tests.rapid.fakes import (
    N_VOCAB,
    Clock,
    FakeModel,
    GivenCosts,
    Oracle,
    draft_scheduler,
    drafter,
    make_request,
    model_drafter,
)

N_PROMPT = 6
FLAT = {1: 1.0, 2: 1.0, 32: 1.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("rapid.loop", "answer.run", "answer.statistics"):
        monkeypatch.setattr(f"langchain_ralmspec.{module}.time", clock)
    return clock


class Slow:
    """Takes a while; drafts ``n`` tokens of given evidence, or none."""

    def __init__(
        self, clock: Clock, seconds: Sequence[float], evidence: tuple[float, ...] = ()
    ) -> None:
        self.name = "slow"
        self.clock, self.evidence = clock, evidence
        self._seconds = list(seconds)
        self.n_asked = 0

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        self.n_asked += 1
        self.clock.now += self._seconds.pop(0) if self._seconds else 0.0
        return Draft((2,) * min(n, len(self.evidence)), evidence=self.evidence[:n])


def written(target: FakeModel | None = None, **settings: Any) -> LongRequest:
    """A request whose answer is written."""
    request = make_request(target or FakeModel(end_bias=-9), **settings)
    list(generate(request))
    return request


def plain(**settings: Any) -> list[int]:
    return written(**settings).transcript.tokens


def scheduler_of(costs: Cost, **chances: float) -> Scheduler:
    def always(chance: float) -> Callable[[float], float]:
        return lambda _: chance

    drafters = {name: drafter(always(chance)) for name, chance in chances.items()}
    return draft_scheduler(drafters, costs)


def test_seconds_add_up(clock: Clock) -> None:
    target = FakeModel(clock=clock, cost=lambda n: 1 + n / 10, end_bias=-9)
    oracle = Oracle([*plain(), 0], N_PROMPT, clock=clock, step=0.25)
    request = make_request(target, drafters=[oracle], length=None)
    with request.stats.preparing():
        clock.now += 3
    run = Run(generate(request), request)
    for _ in run:
        clock.now += 100  # the consumer's own time

    stats = run.stats
    assert stats.seconds_preparing == 3
    assert stats.seconds_prefilling == pytest.approx(1.5 + 1.1)
    assert stats.seconds_drafting > 0
    passes = [1 + (1 + n) / 10 for _, n, _ in stats.rounds]
    assert stats.seconds_verifying == pytest.approx(sum(passes))
    parts = (
        *(stats.seconds_preparing, stats.seconds_prefilling),
        *(stats.seconds_drafting, stats.seconds_verifying),
    )
    assert stats.seconds == pytest.approx(sum(parts))
    assert stats.first_token == pytest.approx(3 + 1.5 + 1.1)
    assert stats.decode_seconds == pytest.approx(sum(parts[2:]))
    assert stats.tokens_per_pass == (stats.tokens - 1) / stats.passes
    assert stats.acceptance == stats.accepted["oracle"] / stats.drafted["oracle"]
    figures = stats.as_dict()
    assert figures["acceptance"] == stats.acceptance
    assert "rounds" not in figures


def test_nothing_drafted_has_no_acceptance() -> None:
    assert DraftStats().acceptance is None
    assert DraftStats().tokens_per_pass is None


def test_the_first_pass_is_plain_and_all_are_learnt_from(clock: Clock) -> None:
    target = FakeModel(clock=clock, cost=lambda n: 1 + n / 100, end_bias=-9)
    scheduler = draft_scheduler()
    oracle = Oracle([*plain(), 0], N_PROMPT, accuracy=1.0, shape="evidence", length=9)
    request = written(target, scheduler=scheduler, drafters=[oracle])

    sizes = [1 + n for _, n, _ in request.stats.rounds]
    assert sizes[0] == 1
    assert max(sizes) > 4
    for n in (1, *range(4, 30)):
        assert 1 <= (scheduler.estimates.passes(n) or 0) < 3
    for n in (30, 31, 32):
        assert 1 <= (scheduler.estimates.passes(n) or 0) < 4, "8.3 to 8.8 for a CPU"


def test_a_model_without_roll_back_writes_alone() -> None:
    for own, bias in (0, -9.0), (2, 0.0):  # the latter ends after eleven tokens
        answer = written(FakeModel(own, end_bias=bias))
        alone = written(FakeModel(own, end_bias=bias, is_recurrent=True))
        assert alone.transcript.finish_reason == ("length" if bias < 0 else "stop")
        assert len(alone.transcript) > 3
        assert alone.transcript.tokens == answer.transcript.tokens


@pytest.mark.parametrize("n_pieces", [1, 2, 5, 999])
def test_an_answer_goes_on_where_it_was_left(n_pieces: int) -> None:
    def run() -> Run[DraftStats]:
        request = make_request(FakeModel(end_bias=-9), stops=("zz",))
        return Run(generate(request), request)

    whole = list(run())
    left = run()
    pieces = list(islice(left, n_pieces))
    assert left.stats.seconds > 0
    pieces += list(left)
    assert pieces == whole
    assert len(left.tokens) == left.stats.tokens == 24
    seconds = left.stats.first_token, left.stats.passes
    assert list(left) == []
    assert seconds == (left.stats.first_token, left.stats.passes)


@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_a_slow_drafter_that_says_nothing_is_given_up(
    clock: Clock, seconds: float
) -> None:
    slow = Slow(clock, [seconds] * 9999)
    scheduler = draft_scheduler()
    asked = list[int]()
    for _ in range(40):
        before, target = slow.n_asked, FakeModel(clock=clock, cost=lambda _: 1.0)
        target.end_bias = -9
        written(target, scheduler=scheduler, drafters=[slow], max_tokens=100)
        asked.append(slow.n_asked - before)
    assert asked[0] <= 4
    assert sum(asked[1:20]) <= 40, "its prompt is read in a new answer"
    assert scheduler.estimates.source("slow")._saved < 0
    assert clock.now - slow.n_asked * seconds > 3900
    assert slow.n_asked * seconds < 0.05 * 4000


def test_a_drafter_s_own_prompt_is_not_held_against_it(clock: Clock) -> None:
    # It takes as long as fifty tokens, and a draft a tenth of one.
    slow = Slow(clock, [50, 0.1, 0.1, 0.1], (0.5,))
    scheduler = scheduler_of(GivenCosts(FLAT), slow=0.9)
    request = make_request(FakeModel(end_bias=-9), scheduler=scheduler, drafters=[slow])
    rounds = generate(request)
    for _ in range(4):
        next(rounds)

    source = scheduler.estimates.source("slow")
    assert slow.n_asked == 3
    assert source.token(1) == pytest.approx(0.1)
    assert request.stats.seconds_drafting == pytest.approx(50.2)
    assert scheduler.worth_drafting("slow")


@pytest.mark.parametrize("evidence", [(), (0.5,)])
def test_a_drafter_pays_for_drafts_that_are_of_no_use(
    clock: Clock, evidence: tuple[float, ...]
) -> None:
    slow = Slow(clock, [0.5] * 999, evidence)
    free = Oracle([*plain(), 0], N_PROMPT, "free", shape="evidence", accuracy=1.0)
    scheduler = scheduler_of(GivenCosts({1: 1.0, 2: 1.2, 8: 3.0}), slow=0.1, free=0.9)
    target = FakeModel(clock=clock, cost=lambda n: {1: 1.0}.get(n, 1.1), end_bias=-9)
    written(target, scheduler=scheduler, drafters=[slow, free], max_tokens=60)

    saved = {name: one._saved for name, one in scheduler.estimates.sources.items()}
    assert saved["slow"] < 0 < saved["free"]
    assert slow.n_asked < 8


@pytest.mark.parametrize("stops", [("b",), ("a", "."), (" ", "c")])
def test_behind_a_stop_nothing_is_judged(stops: tuple[str, ...]) -> None:
    answer = plain(stops=stops, max_tokens=60)
    after = [*answer, *[2] * 20]
    oracle = Oracle(after, N_PROMPT, accuracy=1.0, length=99)
    request = written(stops=stops, drafters=[oracle], length=50, max_tokens=60)

    assert request.transcript.finish_reason == "stop"
    source = request.scheduler.estimates.source("oracle")
    n_right = len(answer) - 1
    assert request.stats.accepted == ({"oracle": n_right} if n_right else {})
    counted = n_right + PRIOR_WEIGHT * PRIOR_CHANCE
    counted /= n_right + PRIOR_WEIGHT  # some are forgotten since
    assert source.right() == pytest.approx(counted, abs=0.005)


def test_drafters_are_asked_for_no_more_than_can_be_used(clock: Clock) -> None:
    class Modest:
        name = "modest"

        def __init__(self) -> None:
            self.asked: list[int] = []

        def propose(self, prefix: Sequence[int], n: int) -> Draft:
            self.asked.append(n)
            return Draft()

    limits = (512, 4, None, 4), (3, 4, 9, 2), (512, None, None, 3), (512, None, 2, 2)
    for n_batch, length, longest, most in limits:
        modest = Modest()
        target = FakeModel(n_batch=n_batch, end_bias=-9, clock=clock)
        more = {"length": length, "longest_draft": longest, "max_tokens": 40}
        written(target, drafters=[modest], **more)
        # The last token needs no draft: a pass brings one anyway.
        # Nor does the first pass, which tells what one token costs.
        first = 38 if length else 37
        assert modest.asked == [min(most, left) for left in range(first, 0, -1)]


def test_the_warning_says_what_is_wrong() -> None:
    for shape, words in {
        "too many": "asked for 4 tokens at most, it gave 5",
        "beyond": f"{N_VOCAB} is not one of {N_VOCAB} token ids",
        "short evidence": "1 tokens with evidence for 2",
        "narrow": r"shape \(1, 11\), not \(1, 12\)",
        "raises": "RuntimeError: out of ideas",
    }.items():
        oracle = Oracle([2] * 30, N_PROMPT, shape=shape)
        with pytest.warns(RuntimeWarning, match=words):
            written(drafters=[oracle])


def test_a_model_may_draft_in_a_context_where_nothing_was_measured(
    clock: Clock,
) -> None:
    scheduler = draft_scheduler()
    model = FakeModel(1, clock=clock, cost=lambda n: n / 100, end_bias=-9)
    for _ in range(2):
        drafter = model_drafter(model=model, scheduler=scheduler)
        target = FakeModel(clock=clock, cost=lambda n: 1 + n / 100, end_bias=-9)
        asked = written(target, scheduler=scheduler, drafters=[drafter], max_tokens=60)
        assert asked.transcript.tokens == plain(max_tokens=60)
        assert asked.stats.drafted["self"] > 20, "it is of use here"
        # Another length of context: all costs are to be learnt again.
        scheduler.estimates.passes = Cost()


def test_drafters_are_asked_in_order_and_the_first_worth_a_pass_is_taken() -> None:
    answer = [*plain(), 0]
    scheduler = scheduler_of(
        GivenCosts({1: 1.0, 2: 1.5, 9: 4.0}), poor=0.1, good=0.9, spare=0.9
    )
    drafters = [
        Oracle(answer, N_PROMPT, name, accuracy=0.8)
        for name in scheduler.estimates.sources
    ]
    request = written(scheduler=scheduler, drafters=drafters)

    assert {name for name, n, _ in request.stats.rounds if n} == {"good"}
    assert not drafters[2]._calls
    # What was passed over is judged all the same, by its first token.
    assert scheduler.estimates.source("poor").right(0.5) > 0.3
