"""The identity suite would notice: broken on purpose, the loop fails its check."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.answer.token_loop import Verdict
from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.rapid import Draft, DraftStats, generate, loop
from langchain_ralmspec.rapid.loop import DraftLoop, _Proposal
from langchain_ralmspec.rapid.model_drafters import _Written
from tests.unit_tests.rapid.fakes import FakeModel, FakePath, Watched
from tests.unit_tests.rapid.test_identity import Case, Kind, check
from tests.unit_tests.rapid.test_loop import test_an_answer_goes_on_where_it_was_left

GOOD = Case((Kind("bare", accuracy=0.7),), max_tokens=40, end_bias=-9)
STOPPING = replace(GOOD, stops=("a", "b"))
DRAWN = replace(GOOD, sampler=Sampler(temperature=1, seed=3))
RAISING = replace(GOOD, drafters=(Kind("raises"),))

Rows = Sequence[NDArray[np.float32]]


def is_noticed(some: Case = GOOD) -> bool:
    """Whether the check fails, by its own asserts, on any of some runs."""
    for seed in range(25):
        try:
            check(replace(some, seed=seed))
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("some", [GOOD, STOPPING, DRAWN, RAISING])
def test_unbroken_nothing_is(some: Case) -> None:
    assert not is_noticed(some)


def test_kv_of_rejected_tokens_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakePath, "truncate", lambda self, length: None)
    assert is_noticed(replace(GOOD, spare=999))


def test_kv_of_one_rejected_token_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    truncate = FakePath.truncate

    def less(self: FakePath, length: int) -> None:
        truncate(self, min(length + 1, self.length))

    monkeypatch.setattr(FakePath, "truncate", less)
    assert is_noticed()


def test_kv_of_accepted_tokens_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    truncate = FakePath.truncate

    def more(self: FakePath, length: int) -> None:
        truncate(self, min(length, max(0, self.length - 2)))

    monkeypatch.setattr(FakePath, "truncate", more)
    assert is_noticed(replace(GOOD, length=2))


def test_last_token_decoded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    verify = DraftLoop.verify

    def again(self: DraftLoop, proposal: _Proposal) -> list[Any]:
        self._path.extend(self.transcript.tokens[-1:])
        return verify(self, proposal)

    monkeypatch.setattr(DraftLoop, "verify", again)
    assert is_noticed()


def test_one_too_many_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = DraftLoop.choose

    def generous(
        self: DraftLoop, truth: NDArray[np.float32], proposal: _Proposal, number: int
    ) -> int:
        token = choose(self, truth, proposal, number)
        drafted = proposal.tokens
        return drafted[1] if number == 1 < len(drafted) else token

    monkeypatch.setattr(DraftLoop, "choose", generous)
    assert is_noticed()


def test_one_too_few_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = DraftLoop.keep

    def mean(self: DraftLoop, proposal: _Proposal, truths: Rows) -> Verdict:
        # The tokens are right, but a pass is wasted: who proposed them is not.
        less = replace(proposal, draft=proposal.draft.cut(1))
        return keep(self, less, truths[:2])

    monkeypatch.setattr(DraftLoop, "keep", mean)
    assert is_noticed()


def test_bonus_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = DraftLoop.keep

    def stingy(self: DraftLoop, proposal: _Proposal, truths: Rows) -> Verdict:
        return keep(self, proposal, truths[: len(proposal.tokens) or 1])

    monkeypatch.setattr(DraftLoop, "keep", stingy)
    assert is_noticed()


def test_rows_one_off(monkeypatch: pytest.MonkeyPatch) -> None:
    score = FakePath.score

    def shifted(self: FakePath, tokens: Sequence[int]) -> NDArray[np.float32]:
        return np.roll(score(self, tokens), 1, axis=0)

    monkeypatch.setattr(FakePath, "score", shifted)
    assert is_noticed()


def test_random_numbers_of_another_position(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, drawn = Sampler.sample, [0]

    def counted(
        self: Sampler, logits: NDArray[np.float32], generated: Sequence[int]
    ) -> int:
        drawn[0] += 1  # rows looked at, the rejected ones among them
        return sample(self, logits, range(drawn[0]))

    monkeypatch.setattr(Sampler, "sample", counted)
    assert is_noticed(DRAWN)


def test_failed_drafter_asked_again_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: DraftLoop, drafter: Watched, limit: int) -> Draft:
        try:
            tokens = drafter.propose(self._prefix, limit).tokens
        except RuntimeError:
            tokens = ()
        return Draft(tokens, evidence=(0.5,) * len(tokens))

    monkeypatch.setattr(DraftLoop, "_ask", silent)
    assert is_noticed(RAISING)


def test_failed_drafter_asked_again_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = DraftLoop._ask

    def insistent(self: DraftLoop, drafter: Any, limit: int) -> Draft:
        draft = ask(self, drafter, limit)
        self._drafters = list(self._request.drafters)
        return draft

    monkeypatch.setattr(DraftLoop, "_ask", insistent)
    assert is_noticed(RAISING)


def test_broken_draft_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_check", lambda draft, limit, n_vocab: None)
    assert is_noticed(replace(GOOD, drafters=(Kind("too many", fails_at=0),)))


def test_stop_inside_a_draft_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = DraftLoop.keep

    def careless(self: DraftLoop, proposal: _Proposal, truths: Rows) -> Verdict:
        verdict = keep(self, proposal, truths)
        rest = proposal.tokens[len(verdict.committed.tokens) :]
        if self.transcript.finish_reason == "stop":
            for token in rest:
                self.transcript.append(token)
        return verdict

    monkeypatch.setattr(DraftLoop, "keep", careless)
    assert is_noticed(STOPPING)


def test_stop_looked_for_at_the_end_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    append, keep = Transcript.append, DraftLoop.keep

    def deaf(self: Transcript, token: int) -> None:
        reason = append(self, token)
        if reason == "stop" and not self._vocabulary.is_end(token):
            self.finish_reason = None

    def late(self: DraftLoop, proposal: _Proposal, truths: Rows) -> Verdict:
        monkeypatch.setattr(Transcript, "append", deaf)
        verdict = keep(self, proposal, truths)
        monkeypatch.setattr(Transcript, "append", append)
        text = verdict.committed.text
        if any(stop.encode() in text for stop in STOPPING.stops):
            self.transcript.finish_reason = "stop"
        return verdict

    monkeypatch.setattr(DraftLoop, "keep", late)
    assert is_noticed(STOPPING)


def test_prompt_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    find_or_open = FakeModel.find_or_open

    def stuttering(
        self: FakeModel, prefix: Sequence[int], *, keep: bool = True
    ) -> tuple[FakePath, bool]:
        path, was_kept = find_or_open(self, prefix, keep=keep)
        if was_kept:
            path.prefill(prefix[-1:])
        return path, was_kept

    monkeypatch.setattr(FakeModel, "find_or_open", stuttering)
    assert is_noticed(replace(GOOD, is_kept=True))


def test_kept_kv_called_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    find_or_open = FakeModel.find_or_open

    def modest(
        self: FakeModel, prefix: Sequence[int], *, keep: bool = True
    ) -> tuple[FakePath, bool]:
        return find_or_open(self, prefix, keep=keep)[0], False

    monkeypatch.setattr(FakeModel, "find_or_open", modest)
    assert not is_noticed()
    assert is_noticed(replace(GOOD, is_kept=True))


def test_answer_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Run.__iter__

    def anew(self: Run[DraftStats]) -> Iterator[str]:
        self._events = generate(self.request)
        return rounds(self)

    monkeypatch.setattr(Run, "__iter__", anew)
    with pytest.raises(AssertionError):
        test_an_answer_goes_on_where_it_was_left(2)


def test_accepted_tokens_miscounted(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = DraftStats.verified

    def boastful(self: DraftStats, name: str | None, n: int, right: int) -> None:
        verified(self, name, n, n)

    monkeypatch.setattr(DraftStats, "verified", boastful)
    assert is_noticed()


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
