"""The headline: without transfer a drafter changes nothing but the clock."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.rapid import (
    Drafter,
    DraftStats,
    PromptLookupDrafter,
    generate,
)
from langchain_ralmspec.rapid.model_drafters import RagDrafter, TextDrafter
from langchain_ralmspec.speculation import (
    Cost,
    Scheduler,
    chance_of_match,
)
from tests.unit_tests.fakes import samplers
from tests.unit_tests.rapid.fakes import (
    BROKEN,
    ENDS,
    OTHER_PIECES,
    PIECES,
    FakeModel,
    FakeWeights,
    GivenCosts,
    Oracle,
    Watched,
    draft_scheduler,
    drafter,
    make_request,
    model_drafter,
)

MODELS = ("lookup", "self", "padded", "narrow", "text")
SHAPES = ("bare", "evidence", "probabilities")


@dataclass(frozen=True)
class Kind:
    """How to make a drafter."""

    what: str
    accuracy: float = 0.9
    length: int = 5
    fails_at: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """All that an answer depends on, and who drafts it."""

    drafters: tuple[Kind, ...]
    seed: int = 0
    document: tuple[int, ...] = (2, 3, 4, 2, 3, 6, 4)
    tail: tuple[int, ...] = (6,)
    stops: tuple[str, ...] = ()
    sampler: Sampler = field(default_factory=Sampler)
    max_tokens: int = 30
    end_bias: float = -1.0
    n_batch: int = 512
    is_kept: bool = False
    length: int | None = 4
    longest_draft: int | None = None
    costs: tuple[float, ...] = ()
    spare: int = 0  # tokens of context beyond what is needed


def run(
    case: Case, answer: Sequence[int] | None = None
) -> tuple[Run[DraftStats], FakeModel]:
    """Answer, drafted by those who know ``answer``, or plainly if it is None."""
    n_prompt = len(case.document) + len(case.tail)
    target = FakeModel(
        case.seed,
        end_bias=case.end_bias,
        n_ctx=n_prompt + case.max_tokens + case.spare,
        n_batch=case.n_batch,
    )
    if case.is_kept:
        target.kept.add(case.document)
    seconds = dict(zip((1, 2, 4, 9), case.costs, strict=False))
    costs = GivenCosts(seconds) if case.costs else Cost()
    scheduler = draft_scheduler(passes=costs, length=case.length)
    drafters = [
        Watched(make_drafter(kind, f"{kind.what} {n}", scheduler, case, answer))
        for n, kind in enumerate(case.drafters)
        if answer is not None
    ]
    request = make_request(
        target,
        document=case.document,
        tail=case.tail,
        stops=case.stops,
        sampler=case.sampler,
        scheduler=scheduler,
        drafters=drafters,
        max_tokens=case.max_tokens,
        longest_draft=case.longest_draft,
    )
    return Run(generate(request), request), target


def make_drafter(
    kind: Kind,
    name: str,
    scheduler: Scheduler,
    case: Case,
    answer: Sequence[int],
) -> Drafter:
    n_prompt = len(case.document) + len(case.tail)
    if kind.what == "lookup":
        scheduler.estimates.sources[name] = drafter(chance_of_match)
        lookup = PromptLookupDrafter(n_prompt)
        lookup.name = name
        return lookup
    if kind.what not in MODELS:
        return Oracle(
            [*answer, ENDS[0]],
            n_prompt,
            name,
            kind.accuracy,
            kind.length,
            kind.what,
            kind.fails_at,
            kind.seed,
        )
    weights = FakeWeights()
    if kind.what == "padded":
        weights = replace(weights, pieces=(*PIECES, b"x", b"y"))
    if kind.what == "text":
        weights = FakeWeights(OTHER_PIECES, (0,))
    # One whose context is full before the answer is ready fails then.
    room = case.max_tokens // 2 if kind.what == "narrow" else 999
    made: Drafter = model_drafter(
        TextDrafter if kind.what == "text" else RagDrafter,
        name=name,
        model=FakeModel(kind.seed, weights=weights, n_ctx=3 + room),
        n_prompt=n_prompt,
        scheduler=scheduler,
    )
    return made


def check(case: Case) -> Run[DraftStats]:
    """Whether drafts change nothing, and whether the books are right."""
    plain, _ = run(case)
    expected = "".join(plain)
    drafted, target = run(case, plain.tokens)
    watched: list[Any] = list(drafted.request.drafters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        text = "".join(drafted)

    assert drafted.tokens == plain.tokens
    assert text == expected
    assert drafted.finish_reason == plain.finish_reason

    prompt = [*case.document, *case.tail]
    (path,) = target.paths
    kept = [*prompt, *plain.tokens[:-1]]  # what the last round left is of no use
    assert path.tokens[: len(kept)] == kept

    assert not any(drafter.asked_again for drafter in watched)
    assert all(warning.category is RuntimeWarning for warning in caught)
    said = " ".join(str(warning.message) for warning in caught)
    failed = [drafter.name for drafter in watched if drafter.failed]
    assert len(caught) == len(failed), said
    assert all(f"{name!r} failed" in said for name in failed)
    check_books(drafted, {drafter.name: drafter.proposed for drafter in watched})
    assert drafted.stats.passes <= plain.stats.passes
    longest = case.max_tokens if case.longest_draft is None else case.longest_draft
    assert max(drafted.stats.lengths, default=0) <= longest
    assert drafted.stats.cached_tokens == len(case.document) * case.is_kept
    return drafted


def check_books(
    run: Run[DraftStats], proposed: dict[str, dict[int, tuple[int, ...]]]
) -> None:
    stats, written, request = run.stats, run.steps, run.request
    assert [t for w in written for t in w.tokens] == run.tokens
    assert stats.tokens == len(run.tokens)
    assert b"".join(w.text for w in written) == request.transcript.text_bytes(
        0, len(run.tokens)
    )
    assert stats.passes == len(stats.rounds) == len(written) - 1
    assert stats.lengths == Counter(drafted for _, drafted, _ in stats.rounds)
    sources = Counter(source for w in written for source in w.sources)
    assert sources.total() == stats.tokens
    del sources["target"]
    assert sources == Counter(stats.accepted)
    for name in stats.drafted:
        own = [(n, right) for who, n, right in stats.rounds if who == name]
        assert stats.drafted[name] == sum(n for n, _ in own)
        assert stats.accepted[name] == sum(right for _, right in own)
        assert all(0 <= right <= n for n, right in own)
    assert written[0].sources in {(), ("target",)}
    start = stats.prompt_tokens + len(written[0].tokens)
    assert stats.prompt_tokens == len(request.document) + len(request.tail)
    for w, (by, n, right) in zip(written[1:], stats.rounds, strict=True):
        tokens = proposed[by][start][:n] if by else ()
        assert len(tokens) == n
        assert w.tokens[:right] == tokens[:right]
        assert len(w.tokens) <= right + 1
        if w is not written[-1]:
            assert len(w.tokens) == right + 1
        assert set(w.sources[:right]) <= {by}
        if right < len(w.tokens):  # the target's own
            assert w.sources[right] == "target"
            assert w.tokens[right] != (*tokens, None)[right]
        start += len(w.tokens)


tokens_lists = st.lists(st.integers(2, 6), min_size=1, max_size=12).map(tuple)
kinds = st.builds(
    Kind,
    what=st.sampled_from([*MODELS, *SHAPES, *SHAPES, *BROKEN]),
    accuracy=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    length=st.integers(0, 9),
    fails_at=st.integers(0, 3),
    seed=st.integers(0, 99),
)
cases = st.builds(
    Case,
    drafters=st.lists(kinds, min_size=1, max_size=3).map(tuple),
    seed=st.integers(0, 10_000),
    document=tokens_lists,
    tail=tokens_lists,
    stops=st.lists(
        st.sampled_from(["aa", "b", "a.", "ab", "c a", "é", "€"]), max_size=2
    ).map(tuple),
    sampler=samplers,
    max_tokens=st.integers(1, 40),
    end_bias=st.sampled_from([-9.0, -1.0, 1.0]),
    n_batch=st.sampled_from([1, 2, 3, 512]),
    is_kept=st.booleans(),
    length=st.one_of(st.none(), st.integers(1, 8)),
    longest_draft=st.sampled_from([None, None, 0, 2]),
    costs=st.one_of(
        st.just(()),
        st.lists(st.floats(0.1, 4), min_size=1, max_size=4).map(sorted).map(tuple),
    ),
)


@settings(max_examples=1500)
@given(cases)
def test_drafts_change_nothing(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("length", [1, 3, 8])
@pytest.mark.parametrize("what", [*MODELS, *SHAPES])
def test_and_this_is_not_because_nothing_is_drafted(what: str, length: int) -> None:
    some = Case((Kind(what),), length=length, end_bias=-9)
    runs = [check(replace(some, seed=seed)) for seed in range(20)]

    rounds = [one for run in runs for one in run.stats.rounds]
    assert max(n for _, n, _ in rounds) == min(length, 5 if what in SHAPES else length)
    assert any(right > 0 for _, _, right in rounds)
    assert any(right < n for _, n, right in rounds)
    assert any(0 < right < n for _, n, right in rounds) or length == 1
