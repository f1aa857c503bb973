"""The identity suite would notice: broken on purpose, the loops tell other stories."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.ralm import (
    Session,
    Writer,
    loop,
    sequential,
    speculative,
    writer,
)
from langchain_ralmspec.ralm.flights import Flight, Flights
from langchain_ralmspec.ralm.session import Verification
from langchain_ralmspec.ralm.writer import Branch
from tests.unit_tests.fakes import FakeStore, always, make_request
from tests.unit_tests.ralm.test_identity import story


class Late(Future[Verification]):
    """A call whose answer is there once it has been looked for so many times.

    Threads would land it when they are let, and so break other things in every run.
    """

    def __init__(self, ask: Callable[[], Verification], n_looks: int) -> None:
        super().__init__()
        self._answer, self._n_looks = ask, n_looks

    def done(self) -> bool:
        self._n_looks -= 1
        if self._n_looks < 0:
            self._land()
        return super().done()

    def result(self, timeout: float | None = None) -> Verification:
        self._land()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._land()
        return super().exception(timeout)

    def _land(self) -> None:
        if not super().done():
            self.set_result(self._answer())


@pytest.fixture(autouse=True)
def calls_land_late(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count()

    def start(_: Flights, ask: Callable[[], Verification], *, in_thread: bool) -> Late:
        return Late(ask, next(numbers) * 7 % 30 if in_thread else 0)

    monkeypatch.setattr(Flights, "_start", start)


def differs(plan: tuple[Any, ...] = (4, "same")) -> bool:
    """Whether any of some fixed runs tells another story under speculation."""
    for seed in range(40):
        settings: dict[str, Any] = {"max_tokens": 40, "end_bias": -9}
        slow = make_request(FakeStore(9, seed=seed), **settings)
        fast = make_request(FakeStore(9, seed=seed), **settings)
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
    monkeypatch.setattr(writer, "N_RECENT", 1)
    assert differs((1, "lookup", 8))


def test_steps_of_wrong_guesses_in_flight_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_only(self: Any) -> Any:
        self.flights.abandon()
        self.group, self.tentative = [], type(self.tentative)()
        yield from ()

    monkeypatch.setattr(loop._Speculation, "_roll_back", first_only)
    assert differs(PIPELINE)


def one_token_too_few(
    self: Any, length: int, truncate: Any = Transcript.truncate
) -> None:
    truncate(self, min(length + 1, len(self)))


def kv_rebuilt(self: Any, mark: int, rewind: Any = Writer.rewind) -> None:
    rewind(self, mark)
    self._branches.clear()  # the next stride opens afresh: other call shapes


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        pytest.param(Transcript, "truncate", lambda *_: None, id="no token taken back"),
        pytest.param(Transcript, "truncate", one_token_too_few, id="one too few"),
        pytest.param(Branch, "rewind", lambda *_: None, id="KV not rolled back"),
        pytest.param(Writer, "rewind", kv_rebuilt, id="KV rebuilt instead"),
        pytest.param(
            Flight, "n_right", property(lambda self: len(self.guesses)), id="unchecked"
        ),
        pytest.param(
            Session,
            "_settled",
            lambda self, _, found, __: tuple(
                map(self._memory.read, found.hits[: self.depth])
            ),
            id="near ties not settled",
        ),
    ],
)
def test_broken_it_differs(
    owner: type, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken)
    assert differs()
