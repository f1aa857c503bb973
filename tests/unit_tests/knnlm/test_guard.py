"""The identity suite would notice: broken on purpose, the loop fails its check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.answer.token_loop import Verdict
from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.knnlm import Neighbours
from langchain_ralmspec.knnlm.loop import NeighbourLoop, _Found, _Guesses
from langchain_ralmspec.speculation import Plan
from tests.unit_tests.knnlm.fakes import FakeDatastore, FakePath
from tests.unit_tests.knnlm.test_identity import Case, check

GOOD = Case((Plan("lookup", 4),), max_tokens=40)
STOPPING = replace(GOOD, stops=("d", "f"))
ENDING = replace(GOOD, end_bias=1.0)
DRAWN = replace(GOOD, sampler=Sampler(temperature=1, seed=3))
APPROXIMATE = replace(GOOD, is_approximate=True)
ROUNDED = replace(GOOD, is_rounded=True)

Queries = NDArray[np.float32]
Found = Sequence[_Found]


def is_noticed(some: Case = GOOD) -> bool:
    """Whether the check fails, by its own asserts, on any of some runs."""
    for seed in range(25):
        try:
            check(replace(some, seed=seed))
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("some", [GOOD, STOPPING, ENDING, DRAWN, APPROXIMATE, ROUNDED])
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
    choose = NeighbourLoop.choose

    def trusting(
        self: NeighbourLoop, truth: _Found, proposal: _Guesses, number: int
    ) -> int:
        token = choose(self, truth, proposal, number)
        return proposal.tokens[number] if proposal.tokens else token

    monkeypatch.setattr(NeighbourLoop, "choose", trusting)
    assert is_noticed()


def test_first_wrong_guess_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = NeighbourLoop.keep

    def generous(self: NeighbourLoop, proposal: _Guesses, truths: Found) -> Verdict:
        n_before = len(self.transcript)
        verdict = keep(self, proposal, truths)
        if not proposal.tokens:
            return verdict
        # Again, with the guesses up to the wrong one as what was found.
        self.transcript.truncate(n_before)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                NeighbourLoop, "choose", lambda *given: proposal.tokens[given[-1]]
            )
            return keep(self, proposal, truths[: verdict.num_chosen_tokens])

    monkeypatch.setattr(NeighbourLoop, "keep", generous)
    assert is_noticed()


def test_right_token_of_a_mismatch_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = NeighbourLoop.keep

    def stingy(self: NeighbourLoop, proposal: _Guesses, truths: Found) -> Verdict:
        n_before = len(self.transcript)
        verdict = keep(self, proposal, truths)
        n_right = verdict.num_accepted_tokens
        if 0 < n_right < verdict.num_chosen_tokens:
            # The text is the same, but what the search told of it was for nothing.
            self.transcript.truncate(n_before)
            return keep(self, proposal, truths[:n_right])
        return verdict

    monkeypatch.setattr(NeighbourLoop, "keep", stingy)
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
    propose = NeighbourLoop.propose

    def late(self: NeighbourLoop) -> _Guesses:
        guesses = propose(self)
        return replace(guesses, states=(guesses.states[0], *guesses.states[:-1]))

    monkeypatch.setattr(NeighbourLoop, "propose", late)
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


def test_stop_inside_a_stride_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    append, keep = Transcript.append, NeighbourLoop.keep

    def deaf(self: Transcript, token: int) -> None:
        reason = append(self, token)
        if reason == "stop" and not self._vocabulary.is_end(token):
            self.finish_reason = None

    def late(self: NeighbourLoop, proposal: _Guesses, truths: Found) -> Verdict:
        verdict = keep(self, proposal, truths)
        text = verdict.committed.text
        if any(stop.encode() in text for stop in STOPPING.stops):
            self.transcript.finish_reason = "stop"
        return verdict

    monkeypatch.setattr(Transcript, "append", deaf)
    monkeypatch.setattr(NeighbourLoop, "keep", late)
    assert is_noticed(STOPPING)


def test_guesses_behind_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    append = Transcript.append

    def restless(self: Transcript, token: int) -> Any:
        reason = append(self, token)
        return None if reason == "length" else reason

    monkeypatch.setattr(Transcript, "append", restless)
    assert is_noticed()


def test_right_guesses_miscounted(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = NeighbourLoop._learn_from_search

    def boastful(
        self: NeighbourLoop, proposal: _Guesses, verdict: Verdict, seconds: float
    ) -> None:
        n = len(proposal.tokens)
        more = replace(verdict, num_chosen_tokens=n, num_accepted_tokens=n)
        learn(self, proposal, more, seconds)

    monkeypatch.setattr(NeighbourLoop, "_learn_from_search", boastful)
    assert is_noticed()
