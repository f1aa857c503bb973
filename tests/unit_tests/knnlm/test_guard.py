"""The identity suite would notice: broken on purpose, the loop fails its check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.knnlm import Neighbours
from langchain_ralmspec.knnlm.cache import NeighbourCache
from langchain_ralmspec.knnlm.loop import _State, _Text
from langchain_ralmspec.speculation import Plan
from tests.unit_tests.knnlm.fakes import FakeDatastore, FakePath
from tests.unit_tests.knnlm.test_identity import Case, check

GOOD = Case((Plan("lookup", 4),), max_tokens=40)
STOPPING = replace(GOOD, stops=("d", "f"))
ENDING = replace(GOOD, end_bias=1.0)
DRAWN = replace(GOOD, sampler=Sampler(temperature=1, seed=3))
UNNESTED = replace(GOOD, top_k_is_stable=False)
ROUNDED = replace(GOOD, is_rounded=True)

Queries = NDArray[np.float32]


def is_noticed(some: Case = GOOD) -> bool:
    """Whether the check fails, by its own asserts, on any of some runs."""
    for seed in range(25):
        try:
            check(replace(some, seed=seed))
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("some", [GOOD, STOPPING, ENDING, DRAWN, UNNESTED, ROUNDED])
def test_unbroken_nothing_is(some: Case) -> None:
    assert not is_noticed(some)


def test_kv_of_wrong_guesses_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    init = FakePath.__init__

    def roomy(self: FakePath, *args: Any) -> None:
        init(self, *args)
        self.n_ctx = 999

    monkeypatch.setattr(FakePath, "__init__", roomy)
    monkeypatch.setattr(FakePath, "truncate", lambda self, length: None)
    assert is_noticed()


def test_kv_of_one_wrong_guess_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    truncate = FakePath.truncate

    def less(self: FakePath, length: int) -> None:
        truncate(self, min(length + 1, self.length))

    monkeypatch.setattr(FakePath, "truncate", less)
    assert is_noticed()


def test_kv_of_a_right_guess_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    truncate = FakePath.truncate

    def more(self: FakePath, length: int) -> None:
        truncate(self, max(length - 1, len(self.prefix)))

    monkeypatch.setattr(FakePath, "truncate", more)
    assert is_noticed()


def test_kv_rebuilt_instead_of_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def rebuilt(self: FakePath, length: int) -> None:
        calls = [token for call in self.calls for token in call]
        self.calls = [tuple(calls[: length - len(self.prefix)])]

    monkeypatch.setattr(FakePath, "truncate", rebuilt)
    assert is_noticed()


def test_guesses_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = _Text._truth

    def trusting(
        self: _Text, states: Sequence[_State], guesses: Sequence[int] | None = None
    ) -> list[int]:
        tokens = truth(self, states, guesses)
        return tokens if guesses is None else list(guesses)

    monkeypatch.setattr(_Text, "_truth", trusting)
    assert is_noticed()


def test_first_wrong_guess_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = _Text._truth

    def generous(
        self: _Text, states: Sequence[_State], guesses: Sequence[int] | None = None
    ) -> list[int]:
        tokens = truth(self, states, guesses)
        return tokens if guesses is None else list(guesses[: len(tokens)])

    monkeypatch.setattr(_Text, "_truth", generous)
    assert is_noticed()


def test_right_token_of_a_mismatch_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = _Text._truth

    def stingy(
        self: _Text, states: Sequence[_State], guesses: Sequence[int] | None = None
    ) -> list[int]:
        # The text is the same, but what the search told of it was for nothing.
        tokens = truth(self, states, guesses)
        return tokens[:-1] or tokens

    monkeypatch.setattr(_Text, "_truth", stingy)
    assert is_noticed()


def test_guesses_left_in_the_transcript(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transcript, "truncate", lambda self, length: None)
    assert is_noticed()


def test_one_guess_left_in_the_transcript(monkeypatch: pytest.MonkeyPatch) -> None:
    truncate = Transcript.truncate

    def less(self: Transcript, length: int) -> None:
        truncate(self, min(length + 1, len(self)))

    monkeypatch.setattr(Transcript, "truncate", less)
    assert is_noticed()


def test_random_numbers_by_count_of_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, drawn = Sampler.draw, [0]

    def counted(self: Sampler, logits: NDArray[np.float32], position: int) -> int:
        drawn[0] += 1  # the guesses among them
        return draw(self, logits, drawn[0])

    monkeypatch.setattr(Sampler, "draw", counted)
    assert is_noticed(DRAWN)


def test_all_that_is_found_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Neighbours, "first", lambda self, k: self)
    assert is_noticed()


def test_queries_one_off(monkeypatch: pytest.MonkeyPatch) -> None:
    search = FakeDatastore.search

    def shifted(self: FakeDatastore, queries: Queries, k: int) -> list[Neighbours]:
        return search(self, np.roll(queries, 1, axis=0), k)

    monkeypatch.setattr(FakeDatastore, "search", shifted)
    assert is_noticed()


def test_what_was_found_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    search = FakeDatastore.search

    def reversed_(self: FakeDatastore, queries: Queries, k: int) -> list[Neighbours]:
        return search(self, queries, k)[::-1]

    monkeypatch.setattr(FakeDatastore, "search", reversed_)
    assert is_noticed()


def test_states_of_the_token_before(monkeypatch: pytest.MonkeyPatch) -> None:
    guess = _Text._guess

    def late(self: _Text, stride: int) -> tuple[list[_State], list[int]]:
        states, guesses = guess(self, stride)
        return [states[0], *states[:-1]], guesses

    monkeypatch.setattr(_Text, "_guess", late)
    assert is_noticed()


def test_distances_that_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    search = FakeDatastore.search

    def rounded(self: FakeDatastore, queries: Queries, k: int) -> list[Neighbours]:
        found = search(self, queries, k)
        apart = np.float32(len(queries) - 1)
        return [replace(one, distances=one.distances * apart) for one in found]

    monkeypatch.setattr(FakeDatastore, "search", rounded)
    assert is_noticed()


def test_candidates_picked_without_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = FakeDatastore._candidates

    def strict(
        self: FakeDatastore, query: Queries, k: int, batch: int
    ) -> NDArray[np.int64]:
        monkeypatch.setattr("tests.unit_tests.knnlm.fakes.MARGIN", 0.0)
        return candidates(self, query, k, batch)

    monkeypatch.setattr(FakeDatastore, "_candidates", strict)
    assert not is_noticed()
    assert is_noticed(ROUNDED)


def test_loops_that_search_with_different_widths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Another width finds others, but the datastore says that it does not.
    monkeypatch.setattr(FakeDatastore, "_misses_some", True)
    assert is_noticed()
    assert not is_noticed(UNNESTED)


def test_stop_inside_a_stride_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    append, commit = Transcript.append, _Text._commit

    def deaf(self: Transcript, token: int) -> None:
        reason = append(self, token)
        if reason == "stop" and not self._vocabulary.is_end(token):
            self.finish_reason = None

    def late(self: _Text, tokens: Sequence[int]) -> Committed:
        monkeypatch.setattr(Transcript, "append", deaf)
        written = commit(self, tokens)
        monkeypatch.setattr(Transcript, "append", append)
        if any(stop.encode() in written.text for stop in STOPPING.stops):
            self._request.transcript.finish_reason = "stop"
        return written

    monkeypatch.setattr(_Text, "_commit", late)
    assert is_noticed(STOPPING)


def test_guesses_behind_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    append = Transcript.append

    def restless(self: Transcript, token: int) -> Any:
        reason = append(self, token)
        return None if reason == "length" else reason

    monkeypatch.setattr(Transcript, "append", restless)
    assert is_noticed()


def test_right_guesses_miscounted(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = _Text._learn

    def boastful(
        self: _Text, n_guesses: int, n_right: int, n_tokens: int, seconds: float
    ) -> None:
        learn(self, n_guesses, n_guesses, n_guesses, seconds)

    monkeypatch.setattr(_Text, "_learn", boastful)
    assert is_noticed()


def test_what_is_cached_is_the_clock_s_business_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Behind a wrong guess, queries are for another text: harmless, and no use.
    add, search = NeighbourCache.add, FakeDatastore.search
    everything: list[Neighbours] = []

    def keep(self: FakeDatastore, queries: Queries, k: int) -> list[Neighbours]:
        everything[:] = search(self, queries, k)
        return everything

    def add_all(self: NeighbourCache, found: list[Neighbours]) -> None:
        add(self, everything)

    monkeypatch.setattr(FakeDatastore, "search", keep)
    monkeypatch.setattr(NeighbourCache, "add", add_all)
    assert not is_noticed()
