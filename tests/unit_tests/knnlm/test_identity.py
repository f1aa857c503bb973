"""The headline: guessed neighbours change nothing but the clock."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.knnlm import (
    KNNDatastore,
    Mixture,
    NeighbourRequest,
    Neighbours,
    datastore,
    generate,
    loop,
)
from langchain_ralmspec.speculation import Estimates, Plan, Scheduler
from langchain_ralmspec.speculation.costs import Spent
from langchain_ralmspec.speculation.plan import SEQUENTIAL, StepSeconds
from tests.unit_tests.fakes import END, follow, samplers
from tests.unit_tests.knnlm.fakes import (
    FakeDatastore,
    FakePath,
    FakeVocabulary,
    write_entries,
)


@dataclass(frozen=True)
class Case:
    """All that a text depends on, and how it is guessed.

    Without ``plans`` the scheduler chooses, on what it has learnt of ``n_before``
    texts and of a search that takes ``search_seconds``.
    """

    plans: tuple[Plan, ...] = ()
    n_before: int = 0
    search_seconds: float = 0.0
    seed: int = 0
    n_entries: int = 200
    is_approximate: bool = False
    is_rounded: bool = False
    can_probe: bool = True
    k: int = 3
    mixture: Mixture = field(default_factory=lambda: Mixture(0.6, 8.0))
    prompt: tuple[int, ...] = (3, 4, 5)
    stops: tuple[str, ...] = ()
    sampler: Sampler = field(default_factory=Sampler)
    max_tokens: int = 24
    end_bias: float = -9.0


def datastore_of(case: Case) -> Any:
    return FakeDatastore(
        case.n_entries,
        case.seed,
        case.is_approximate,
        case.is_rounded,
        case.can_probe,
    )


class Text:
    """A text that is written, and all that it leaves behind."""

    def __init__(self, case: Case, datastore: Any = None) -> None:
        self.case = case
        self.datastore = datastore or datastore_of(case)
        self.paths: list[FakePath] = []
        self.written: list[Committed] = []
        self.request = NeighbourRequest(
            prompt=case.prompt,
            open_path=self._open,
            datastore=self.datastore,
            k=min(case.k, len(self.datastore)),
            mixture=case.mixture,
            transcript=Transcript(
                FakeVocabulary(), max_tokens=case.max_tokens, stops=case.stops
            ),
            sampler=case.sampler,
        )

    def _open(self, prefix: tuple[int, ...]) -> Any:
        # There is no room for the text's last token: it need not be decoded.
        room = len(self.case.prompt) + self.case.max_tokens - 1
        self.paths.append(FakePath(prefix, self.case.seed, self.case.end_bias, room))
        return self.paths[-1]

    def write(self, scheduler: Scheduler | None) -> Self:
        for written in generate(self.request, scheduler):
            self.written.append(written)
            # What was told is final, and nothing else is in the transcript.
            assert self.tokens == self.request.transcript.tokens
        return self

    @property
    def tokens(self) -> list[int]:
        return [token for written in self.written for token in written.tokens]

    @property
    def story(self) -> tuple[Any, ...]:
        """What the caller sees."""
        text = b"".join(written.text for written in self.written)
        return self.tokens, text, self.request.transcript.finish_reason

    @property
    def kv(self) -> list[Any]:
        """What the model holds in the end, call by call."""
        return [(path.prefix, path.calls) for path in self.paths]


def scheduler_of(case: Case) -> Scheduler:
    if case.plans:
        return follow(*case.plans)
    estimates = Estimates()
    scheduler = Scheduler(estimates, policies=("lookup",), asynchronous=False)
    for number in range(case.n_before):
        Text(replace(case, seed=case.seed + 1 + number)).write(scheduler)
    for _ in range(5):
        estimates.retrieved(Spent(), Spent(case.search_seconds))
    return scheduler


def check(case: Case, store: Any = None) -> Text:
    """Whether guesses change nothing, and whether the books are right."""
    slow = Text(case, store).write(None)
    fast = Text(case, store).write(scheduler_of(case))
    assert fast.story == slow.story
    assert fast.kv == slow.kv

    (path,) = slow.paths
    _, text, reason = slow.story
    ended = reason == "stop" and not any(stop.encode() in text for stop in case.stops)
    told = [*slow.tokens, END] if ended else slow.tokens
    sent = [*path.prefix, *(token for call in path.calls for token in call)]
    assert sent == [*case.prompt, *told[:-1]]
    for written in (slow, fast) if store is None else ():
        check_books(written, n_told=len(told))
    return fast


def check_books(text: Text, *, n_told: int) -> None:
    stats, (path,), searches = text.request.stats, text.paths, text.datastore.searches
    assert stats.tokens_kept == len(text.tokens)
    assert stats.steps == n_told
    assert stats.store_calls == len(searches) == len(text.written)
    assert stats.queries == sum(searches)
    assert text.datastore.ks == {text.request.k}, "the voters that were asked for"
    assert stats.rounds == len(stats.verifications)
    n_alone = stats.store_calls - stats.rounds  # tokens that were not guessed
    assert stats.queries == n_alone + sum(n for n, _ in stats.verifications)
    assert stats.steps == n_alone + stats.guesses
    # A search tells of one wrong guess at most, and all tokens up to the right one.
    told = [len(written.tokens) for written in text.written]
    told[-1] += n_told - stats.tokens_kept
    n_cut = sum(n < n_sent for n, n_sent in zip(told, searches, strict=True))
    n_wrong = stats.guesses - stats.right_guesses
    assert 0 <= n_cut <= n_wrong <= stats.rounds
    assert stats.tokens_rolled_back == path.n_decoded - sum(map(len, path.calls))
    assert sum(stats.plans.values()) in {0, stats.store_calls}  # planned, or not


plans = st.lists(
    st.one_of(
        st.just(SEQUENTIAL),
        st.builds(Plan, policy=st.just("lookup"), stride=st.integers(1, 8)),
    ),
    min_size=1,
    max_size=4,
).map(tuple)
a_case: dict[str, Any] = {
    "seed": st.integers(0, 10_000),
    "n_entries": st.sampled_from([1, 2, 7, 60, 200, 400]),
    "is_approximate": st.booleans(),
    "is_rounded": st.booleans(),
    "k": st.sampled_from([1, 2, 5, 16, 1000]),
    "mixture": st.builds(
        Mixture,
        st.sampled_from([0.0, 0.25, 0.6, 1.0]),
        st.sampled_from([0.5, 8.0, 1000.0]),
    ),
    "prompt": st.lists(st.integers(1, 15), min_size=1, max_size=4).map(tuple),
    "stops": st.lists(
        st.text("abcdefghijklmnop", min_size=1, max_size=2), max_size=2
    ).map(tuple),
    "sampler": st.just(Sampler()) | samplers,
    "max_tokens": st.integers(1, 40),
    "end_bias": st.sampled_from([-9.0, 0.0, 1.0]),
}


@settings(max_examples=1500)
@given(st.builds(Case, plans=plans, **a_case))
def test_guesses_change_nothing(case: Case) -> None:
    check(case)


@settings(max_examples=200)
@given(
    st.builds(
        Case,
        n_before=st.integers(0, 2),
        search_seconds=st.sampled_from([0.0, 1e-3, 1.0]),
        **a_case,
    )
)
def test_whatever_the_scheduler_learns(case: Case) -> None:
    check(case)


def test_and_a_slow_search_has_it_guess() -> None:
    case = Case(search_seconds=1.0, max_tokens=40)
    assert any(n > 1 for n, _ in check(case).request.stats.verifications)


@pytest.mark.parametrize("plans", [(), (Plan("lookup", 4),)])
def test_a_datastore_that_cannot_be_probed_is_searched_token_by_token(
    plans: tuple[Plan, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(FakeDatastore, "probe")
    case = Case(plans, search_seconds=1.0, max_tokens=40, can_probe=False)
    text = check(case)
    assert text.datastore.searches == [1] * 40
    assert text.request.stats.plans == {"sequential": 40}
    assert text.request.stats.guesses == 0


def test_what_is_paid_once_is_not_taken_for_the_cost_of_a_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, prepared = 0.0, False

    class SlowStore(FakeDatastore):
        def prepare(self) -> None:
            nonlocal now, prepared
            now += 0 if prepared else 600
            prepared = True

        def search(self, queries: Any, k: int) -> list[Neighbours]:
            nonlocal now
            now += 1.0
            return super().search(queries, k)

        def probe(self, query: Any, k: int) -> Neighbours:
            self.prepare()
            return super().probe(query, k)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now))
    scheduler = follow(*[SEQUENTIAL] * 12, Plan("lookup", 4, rate=1.0))
    case = Case(max_tokens=40)
    text = Text(case, SlowStore(case.n_entries)).write(scheduler)
    assert text.request.stats.guesses
    assert now > 12 + 600, "the clock has seen what was paid once"
    assert scheduler.estimates.step("lookup", overlapped=False) == StepSeconds(0.0)
    assert all(seconds < 60 for _, seconds in text.request.stats.verifications)


@settings(max_examples=300)
@given(st.builds(Case, plans=plans, **a_case), st.integers(0, 99))
def test_however_badly_a_probe_guesses(case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def any_entries(self: FakeDatastore, query: Any, k: int) -> Neighbours:
        rows = rng.integers(len(self), size=rng.integers(0, k, endpoint=True))
        distances = np.sort(rng.random(len(rows))).astype(np.float32)
        return Neighbours(rows, distances, self.tokens[rows])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeDatastore, "probe", any_entries)
        check(case)


@settings(max_examples=100)
@given(st.builds(Case, plans=plans, can_probe=st.booleans(), **a_case))
def test_with_a_datastore_on_disk(
    tmp_path_factory: pytest.TempPathFactory, case: Case
) -> None:
    fake = FakeDatastore(case.n_entries, case.seed)
    folder = tmp_path_factory.mktemp("store")
    write_entries(folder, fake.keys.astype(np.float16), fake.tokens)
    store = KNNDatastore.load(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datastore, "PROBED_FROM", 1 if case.can_probe else 999)
        assert store.can_probe == case.can_probe
        check(case, store)


@pytest.mark.parametrize("stride", range(1, 9))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_and_this_is_not_because_nothing_is_guessed(
    stride: int, temperature: float
) -> None:
    case = Case((Plan("lookup", stride),), max_tokens=40)
    texts = [
        check(replace(case, seed=s, sampler=Sampler(temperature, seed=s)))
        for s in range(8)
    ]

    stats = [text.request.stats for text in texts]
    assert max(n for one in stats for n, _ in one.verifications) == stride
    kept = {len(written.tokens) for text in texts for written in text.written}
    assert {1, stride} <= kept
    assert any(1 < n < stride for n in kept) or stride < 3
    n_right = sum(one.right_guesses for one in stats)
    n_guesses = sum(one.guesses for one in stats)
    assert 0.3 < n_right / n_guesses < 0.95
    assert any(one.tokens_rolled_back for one in stats) or stride == 1


def test_a_right_round_is_one_search_for_all_its_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def all_of_it(self: FakeDatastore, query: Any, k: int) -> Neighbours:
        return self._nearest(query, np.arange(len(self)), k)

    monkeypatch.setattr(FakeDatastore, "probe", all_of_it)
    text = check(Case((Plan("lookup", 4),), max_tokens=10))

    assert text.datastore.searches == [4, 4, 2]
    assert [len(written.tokens) for written in text.written] == [4, 4, 2]
    assert text.request.stats.plans == {"lookup 4": 3}


def test_the_right_token_behind_a_wrong_guess_costs_no_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case((Plan("lookup", 3),), max_tokens=9)

    def wrong(self: FakeDatastore, query: Any, k: int) -> Neighbours:
        token = np.array([1], np.int32)  # of no entry: its votes are all there is
        return Neighbours(np.array([0]), np.zeros(1, np.float32), token)

    monkeypatch.setattr(FakeDatastore, "probe", wrong)
    text = check(replace(case, mixture=Mixture(1.0, 8.0), seed=_seed_without(1)))

    assert [len(written.tokens) for written in text.written] == [1] * 9
    assert text.datastore.searches == [*[3] * 7, 2, 1]
    assert text.request.stats.tokens_rolled_back == 7 * 2 + 1
    assert text.request.stats.right_guesses == 0


def _seed_without(token: int) -> int:
    """Of entries that this token never follows."""
    return next(s for s in range(999) if token not in FakeDatastore(200, s).tokens)


def test_no_neighbours_leave_the_model_on_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case((Plan("lookup", 4),), n_entries=60, k=2)
    alone = replace(case, mixture=Mixture(0.0, 8.0))
    with monkeypatch.context() as patch:
        patch.setattr(FakeDatastore, "_candidates", lambda *_: np.empty(0, np.int64))
        text = check(case)
        assert text.story == check(alone).story
    assert text.story != check(case).story


def test_nothing_happens_before_the_first_iteration() -> None:
    text = Text(Case())
    run = iter(Run(generate(text.request, None), text.request))
    assert not text.paths
    next(run)
    assert text.paths
