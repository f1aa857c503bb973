"""The identity suite would notice: broken on purpose, the loop fails its check."""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.rapid import Draft, DraftStats, generate, loop
from langchain_ralmspec.rapid.loop import DraftLoop, _Proposal
from langchain_ralmspec.rapid.model_drafters import _Written
from tests.unit_tests.breaks import Breaks, apply, noticed
from tests.unit_tests.rapid.fakes import FakeModel, FakePath, Watched
from tests.unit_tests.rapid.test_identity import Case, Kind, check
from tests.unit_tests.rapid.test_loop import test_an_answer_goes_on_where_it_was_left

GOOD = Case((Kind("bare", accuracy=0.7),), max_tokens=40, end_bias=-9)
STOPPING = replace(GOOD, stops=("a", "b"))
DRAWN = replace(GOOD, sampler=Sampler(temperature=1, seed=3))
RAISING = replace(GOOD, drafters=(Kind("raises"),))
KEPT = replace(GOOD, is_kept=True)

breaks, is_noticed = Breaks(), partial(noticed, check)


@pytest.mark.parametrize("some", [GOOD, STOPPING, DRAWN, RAISING])
def test_unbroken_nothing_is(some: Case) -> None:
    assert not is_noticed(some)


@breaks(FakePath, "truncate", replace(GOOD, spare=999))
def kv_of_rejected_tokens_kept(truncate: Any, path: FakePath, length: int) -> None:
    pass


@breaks(FakePath, "truncate", GOOD)
def kv_of_one_rejected_token_kept(truncate: Any, path: FakePath, length: int) -> None:
    truncate(path, min(length + 1, path.length))


@breaks(FakePath, "truncate", replace(GOOD, length=2))
def kv_of_accepted_tokens_dropped(truncate: Any, path: FakePath, length: int) -> None:
    truncate(path, min(length, max(0, path.length - 2)))


@breaks(DraftLoop, "verify", GOOD)
def last_token_decoded_twice(verify: Any, loop: DraftLoop, proposal: Any) -> Any:
    loop._path.extend(loop.transcript.tokens[-1:])
    return verify(loop, proposal)


@breaks(DraftLoop, "choose", GOOD)
def one_too_many_accepted(
    choose: Any, loop: DraftLoop, truth: Any, proposal: _Proposal, number: int
) -> Any:
    token, drafted = choose(loop, truth, proposal, number), proposal.tokens
    return drafted[1] if number == 1 < len(drafted) else token


@breaks(DraftLoop, "keep", GOOD)
def one_too_few_accepted(
    keep: Any, loop: DraftLoop, proposal: _Proposal, truths: Any
) -> Any:
    # The tokens are right, but a pass is wasted: who proposed them is not.
    return keep(loop, replace(proposal, draft=proposal.draft.cut(1)), truths[:2])


@breaks(DraftLoop, "keep", GOOD)
def bonus_dropped(keep: Any, loop: DraftLoop, proposal: Any, truths: Any) -> Any:
    return keep(loop, proposal, truths[: len(proposal.tokens) or 1])


@breaks(FakePath, "score", GOOD)
def rows_one_off(score: Any, path: FakePath, tokens: Sequence[int]) -> Any:
    return np.roll(score(path, tokens), 1, axis=0)


_rows = itertools.count(1)  # that were looked at, the rejected ones among them


@breaks(Sampler, "sample", DRAWN)
def random_numbers_of_another_position(
    sample: Any, sampler: Sampler, logits: Any, generated: Any
) -> Any:
    return sample(sampler, logits, range(next(_rows)))


@breaks(DraftLoop, "_ask", RAISING)
def failed_drafter_asked_again_in_silence(
    ask: Any, loop: DraftLoop, drafter: Watched, limit: int
) -> Draft:
    try:
        tokens = drafter.propose(loop._prefix, limit).tokens
    except RuntimeError:
        tokens = ()
    return Draft(tokens, evidence=(0.5,) * len(tokens))


@breaks(DraftLoop, "_ask", RAISING)
def failed_drafter_asked_again_loudly(
    ask: Any, loop: DraftLoop, drafter: Any, limit: int
) -> Any:
    draft = ask(loop, drafter, limit)
    loop._drafters = list(loop._request.drafters)
    return draft


@breaks(loop, "_check", replace(GOOD, drafters=(Kind("too many", fails_at=0),)))
def broken_draft_verified(check: Any, draft: Any, limit: int, n_vocab: int) -> None:
    pass


@breaks(DraftLoop, "keep", STOPPING)
def stop_inside_a_draft_missed(
    keep: Any, loop: DraftLoop, proposal: Any, truths: Any
) -> Any:
    verdict = keep(loop, proposal, truths)
    rest = proposal.tokens[len(verdict.committed.tokens) :]
    if loop.transcript.finish_reason == "stop":
        for token in rest:
            loop.transcript.append(token)
    return verdict


@breaks(DraftLoop, "keep", STOPPING)
def stop_looked_for_at_the_end_of_a_round(
    keep: Any, loop: DraftLoop, proposal: Any, truths: Any
) -> Any:
    append = Transcript.append

    def deaf(self: Transcript, token: int) -> None:
        reason = append(self, token)
        if reason == "stop" and not self._vocabulary.is_end(token):
            self.finish_reason = None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transcript, "append", deaf)
        verdict = keep(loop, proposal, truths)
    if any(stop.encode() in verdict.committed.text for stop in STOPPING.stops):
        loop.transcript.finish_reason = "stop"
    return verdict


@breaks(FakeModel, "find_or_open", KEPT)
def prompt_read_twice(
    find_or_open: Any, model: FakeModel, prefix: Sequence[int], **how: Any
) -> Any:
    path, n_kept = find_or_open(model, prefix, **how)
    if n_kept:
        path.prefill(prefix[-1:])
    return path, n_kept


@breaks(DraftStats, "verified", GOOD)
def accepted_tokens_miscounted(
    verified: Any, stats: DraftStats, name: str | None, n: int, right: int
) -> None:
    verified(stats, name, n, n)


@pytest.mark.parametrize("broken", breaks.cases)
def test_broken_it_is(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_noticed(apply(broken, monkeypatch))


def test_kept_kv_called_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    find_or_open = FakeModel.find_or_open

    def modest(
        self: FakeModel, prefix: Sequence[int], **how: Any
    ) -> tuple[FakePath, int]:
        return find_or_open(self, prefix, **how)[0], 0

    monkeypatch.setattr(FakeModel, "find_or_open", modest)
    assert not is_noticed(GOOD)
    assert is_noticed(KEPT)


def test_answer_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Run.__iter__

    def anew(self: Run[DraftStats]) -> Iterator[str]:
        self._events = generate(self.request)
        return rounds(self)

    monkeypatch.setattr(Run, "__iter__", anew)
    with pytest.raises(AssertionError):
        test_an_answer_goes_on_where_it_was_left(2)


def test_muddled_drafters_are_none_of_its_business(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Drafters may be as wrong as they like.
    extend = _Written.extend

    def forgetful(self: _Written, tokens: Sequence[int]) -> NDArray[np.float32]:
        return extend(self, [*tokens, tokens[-1]])

    monkeypatch.setattr(_Written, "extend", forgetful)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not is_noticed(replace(GOOD, drafters=(Kind("self"),)))
