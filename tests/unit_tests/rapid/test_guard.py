"""The identity suite would notice: broken on purpose, the loop fails its check."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.rapid import Draft, DraftStats, generate, loop
from langchain_ralmspec.rapid.loop import _Answer
from langchain_ralmspec.rapid.model_drafters import _Written
from tests.unit_tests.rapid.fakes import FakeModel, FakePath, Watched
from tests.unit_tests.rapid.test_identity import Case, Kind, check
from tests.unit_tests.rapid.test_loop import test_an_answer_goes_on_where_it_was_left

GOOD = Case((Kind("bare", accuracy=0.7),), max_tokens=40, end_bias=-9)
STOPPING = replace(GOOD, stops=("a", "b"))
DRAWN = replace(GOOD, sampler=Sampler(temperature=1, seed=3))
RAISING = replace(GOOD, drafters=(Kind("raises"),))


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
    verify = _Answer.round

    def again(self: _Answer) -> Committed:
        self._path.extend(self._prefix[-1:])
        return verify(self)

    monkeypatch.setattr(_Answer, "round", again)
    assert is_noticed()


def test_one_too_many_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = _Answer._choose

    def generous(
        self: _Answer, row: NDArray[np.float32], draft: Draft, number: int
    ) -> int:
        token = choose(self, row, draft, number)
        return draft.tokens[1] if number == 1 < len(draft.tokens) else token

    monkeypatch.setattr(_Answer, "_choose", generous)
    assert is_noticed()


def test_one_too_few_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    take = _Answer.take

    def mean(
        self: _Answer, draft: Draft, name: str | None, rows: NDArray[np.float32]
    ) -> Committed:
        # The tokens are right, but a pass is wasted: who proposed them is not.
        return take(self, draft.cut(1), name, rows[:2])

    monkeypatch.setattr(_Answer, "take", mean)
    assert is_noticed()


def test_bonus_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    take = _Answer.take

    def stingy(
        self: _Answer, draft: Draft, name: str | None, rows: NDArray[np.float32]
    ) -> Committed:
        return take(self, draft, name, rows[: len(draft.tokens) or 1])

    monkeypatch.setattr(_Answer, "take", stingy)
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
    def silent(self: _Answer, drafter: Watched, limit: int) -> Draft:
        try:
            tokens = drafter.propose(self._prefix, limit).tokens
        except RuntimeError:
            tokens = ()
        return Draft(tokens, evidence=(0.5,) * len(tokens))

    monkeypatch.setattr(_Answer, "_propose", silent)
    assert is_noticed(RAISING)


def test_failed_drafter_asked_again_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    propose = _Answer._propose

    def insistent(self: _Answer, drafter: Any, limit: int) -> Draft:
        draft = propose(self, drafter, limit)
        self._drafters = list(self._request.drafters)
        return draft

    monkeypatch.setattr(_Answer, "_propose", insistent)
    assert is_noticed(RAISING)


def test_broken_draft_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_check", lambda draft, limit, n_vocab: None)
    assert is_noticed(replace(GOOD, drafters=(Kind("too many", fails_at=0),)))


def test_stop_inside_a_draft_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    take = _Answer.take

    def careless(
        self: _Answer, draft: Draft, name: str | None, rows: NDArray[np.float32]
    ) -> Committed:
        written = take(self, draft, name, rows)
        rest = draft.tokens[len(written.tokens) :]
        if self._request.transcript.finish_reason == "stop":
            for token in rest:
                self._request.transcript.append(token)
        return written

    monkeypatch.setattr(_Answer, "take", careless)
    assert is_noticed(STOPPING)


def test_stop_looked_for_at_the_end_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    append, take = Transcript.append, _Answer.take

    def deaf(self: Transcript, token: int) -> None:
        reason = append(self, token)
        if reason == "stop" and not self._vocabulary.is_end(token):
            self.finish_reason = None

    def late(
        self: _Answer, draft: Draft, name: str | None, rows: NDArray[np.float32]
    ) -> Committed:
        monkeypatch.setattr(Transcript, "append", deaf)
        written = take(self, draft, name, rows)
        monkeypatch.setattr(Transcript, "append", append)
        if any(stop.encode() in written.text for stop in STOPPING.stops):
            self._request.transcript.finish_reason = "stop"
        return written

    monkeypatch.setattr(_Answer, "take", late)
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
