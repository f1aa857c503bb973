"""The identity suite would notice: broken on purpose, the loops tell other stories."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.ralm import Session, Writer, sequential, speculative
from langchain_ralmspec.ralm.flights import Flight
from langchain_ralmspec.ralm.writer import Branch
from tests.unit_tests.fakes import FakeStore, always, make_request
from tests.unit_tests.ralm.test_identity import story


def differs(plan: tuple[Any, ...] = (4, "same")) -> bool:
    """Whether any of some fixed runs tells another story under speculation."""
    for seed in range(40):
        settings: dict[str, Any] = {"max_tokens": 40, "end_bias": -9}
        slow = make_request(FakeStore(9, seed=seed), **settings)
        dawdling = FakeStore(9, seed=seed, seconds=0.003 if len(plan) > 2 else 0)
        fast = make_request(dawdling, **settings)
        with contextlib.suppress(AssertionError):  # the fakes' own do not count
            try:
                told = story(fast, speculative(fast, always(*plan)))
            except KeyError:  # a branch that had to be there
                return True
            if told != story(slow, sequential(slow)):
                return True
    return False


PIPELINE = (1, "same", 8)


def test_unbroken_nothing_differs() -> None:
    assert not differs()
    assert not differs(PIPELINE)


def test_what_open_steps_need_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    prune = Writer.prune
    monkeypatch.setattr(Writer, "prune", lambda self, mark: prune(self, self.mark))
    monkeypatch.setattr("langchain_ralmspec.ralm.writer.N_RECENT", 1)
    assert differs((1, "lookup", 8))


def test_steps_of_wrong_guesses_in_flight_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_only(self: Any) -> Any:
        self.flights.abandon()
        self.group, self.tentative = [], type(self.tentative)()
        yield from ()

    monkeypatch.setattr(
        "langchain_ralmspec.ralm.loop._Speculation._roll_back", first_only
    )
    assert differs(PIPELINE)


def test_tokens_not_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transcript, "truncate", lambda self, length: None)
    assert differs()


def test_one_token_too_few_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    truncate = Transcript.truncate
    monkeypatch.setattr(
        Transcript,
        "truncate",
        lambda self, length: truncate(self, min(length + 1, len(self))),
    )
    assert differs()


def test_kv_not_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Branch, "rewind", lambda self, n_decoded: None)
    assert differs()


def test_kv_rebuilt_instead_of_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    rewind = Writer.rewind

    def rebuild(self: Writer, mark: int) -> None:
        rewind(self, mark)
        self._branches.clear()  # the next stride opens afresh: other call shapes

    monkeypatch.setattr(Writer, "rewind", rebuild)
    assert differs()


def test_guesses_never_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flight, "n_right", property(lambda self: len(self.guesses)))
    assert differs()


def test_near_ties_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Session, "_settled", lambda self, _, found, __: tuple(found.hits[: self.depth])
    )
    assert differs()
