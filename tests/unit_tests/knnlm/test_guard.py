"""The identity suite would notice: broken on purpose, the loop fails its check."""

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.answer.token_loop import Verdict
from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.knnlm.loop import NeighbourLoop, _Guesses
from langchain_ralmspec.speculation import Plan
from tests.unit_tests.breaks import Breaks, apply, noticed
from tests.unit_tests.knnlm.fakes import FakeDatastore, FakePath
from tests.unit_tests.knnlm.test_identity import Case, check

GOOD = Case((Plan("lookup", 4),), max_tokens=40)
STOPPING = replace(GOOD, stops=("d", "f"))
ENDING = replace(GOOD, end_bias=1.0)
DRAWN = replace(GOOD, sampler=Sampler(temperature=1, seed=3))
APPROXIMATE = replace(GOOD, is_approximate=True)
ROUNDED = replace(GOOD, is_rounded=True)

Queries = NDArray[np.float32]

breaks, is_noticed = Breaks(), partial(noticed, check)


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
    assert is_noticed(GOOD)


@breaks(FakePath, "truncate", GOOD)
def kv_of_one_wrong_guess_kept(truncate: Any, path: FakePath, length: int) -> None:
    truncate(path, min(length + 1, path.length))


@breaks(FakePath, "truncate", GOOD)
def kv_of_a_right_guess_dropped(truncate: Any, path: FakePath, length: int) -> None:
    truncate(path, max(length - 1, len(path.prefix)))


@breaks(FakePath, "truncate", GOOD)
def kv_rebuilt_instead_of_rolled_back(
    truncate: Any, path: FakePath, length: int
) -> None:
    calls = [token for call in path.calls for token in call]
    path.calls = [tuple(calls[: length - len(path.prefix)])]


@breaks(NeighbourLoop, "choose", GOOD)
def guesses_not_verified(
    choose: Any, loop: NeighbourLoop, truth: Any, proposal: _Guesses, number: int
) -> Any:
    token = choose(loop, truth, proposal, number)
    return proposal.tokens[number] if proposal.tokens else token


@breaks(NeighbourLoop, "keep", GOOD)
def first_wrong_guess_kept(
    keep: Any, loop: NeighbourLoop, proposal: _Guesses, truths: Any
) -> Any:
    n_before = len(loop.transcript)
    verdict = keep(loop, proposal, truths)
    if not proposal.tokens:
        return verdict
    # Again, with the guesses up to the wrong one as what was found.
    loop.transcript.truncate(n_before)
    with pytest.MonkeyPatch.context() as patch:
        by_guess = lambda *given: proposal.tokens[given[-1]]  # noqa: E731
        patch.setattr(NeighbourLoop, "choose", by_guess)
        return keep(loop, proposal, truths[: verdict.num_chosen_tokens])


@breaks(NeighbourLoop, "keep", GOOD)
def right_token_of_a_mismatch_dropped(
    keep: Any, loop: NeighbourLoop, proposal: _Guesses, truths: Any
) -> Any:
    n_before = len(loop.transcript)
    verdict = keep(loop, proposal, truths)
    n_right = verdict.num_accepted_tokens
    if 0 < n_right < verdict.num_chosen_tokens:
        # The text is the same, but what the search told of it was for nothing.
        loop.transcript.truncate(n_before)
        return keep(loop, proposal, truths[:n_right])
    return verdict


@breaks(Transcript, "truncate", GOOD)
def guesses_left_in_the_transcript(truncate: Any, text: Any, length: int) -> None:
    pass


@breaks(Transcript, "truncate", GOOD)
def one_guess_left_in_the_transcript(truncate: Any, text: Any, length: int) -> None:
    truncate(text, min(length + 1, len(text)))


_draws = itertools.count(1)  # those of guesses among them


@breaks(Sampler, "draw", DRAWN)
def random_numbers_by_count_of_draws(
    draw: Any, sampler: Sampler, logits: Any, position: int
) -> Any:
    return draw(sampler, logits, next(_draws))


@breaks(FakeDatastore, "search", GOOD)
def queries_one_off(search: Any, store: FakeDatastore, queries: Queries, k: int) -> Any:
    return search(store, np.roll(queries, 1, axis=0), k)


@breaks(FakeDatastore, "search", GOOD)
def what_was_found_in_another_order(
    search: Any, store: FakeDatastore, queries: Queries, k: int
) -> Any:
    return search(store, queries, k)[::-1]


@breaks(NeighbourLoop, "verify", GOOD)
def one_more_neighbour_votes(
    verify: Any, loop: NeighbourLoop, proposal: _Guesses
) -> Any:
    request = loop._request
    loop._request = replace(request, k=request.k + 1)
    try:
        return verify(loop, proposal)
    finally:
        loop._request = request


@breaks(NeighbourLoop, "propose", GOOD)
def states_of_the_token_before(propose: Any, loop: NeighbourLoop) -> Any:
    guesses = propose(loop)
    return replace(guesses, states=(guesses.states[0], *guesses.states[:-1]))


@breaks(FakeDatastore, "search", GOOD)
def distances_that_depend_on_the_batch(
    search: Any, store: FakeDatastore, queries: Queries, k: int
) -> Any:
    apart = np.float32(len(queries) - 1)
    found = search(store, queries, k)
    return [replace(one, distances=one.distances * apart) for one in found]


@breaks(Transcript, "append", GOOD)
def guesses_behind_an_end(append: Any, text: Transcript, token: int) -> Any:
    reason = append(text, token)
    return None if reason == "length" else reason


@breaks(NeighbourLoop, "_learn_from_search", GOOD)
def right_guesses_miscounted(
    learn: Any, loop: NeighbourLoop, proposal: _Guesses, verdict: Verdict, seconds: Any
) -> None:
    n = len(proposal.tokens)
    more = replace(verdict, num_chosen_tokens=n, num_accepted_tokens=n)
    learn(loop, proposal, more, seconds)


@pytest.mark.parametrize("broken", breaks.cases)
def test_broken_it_is(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_noticed(apply(broken, monkeypatch))


def test_candidates_picked_without_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit_tests.knnlm.fakes.MARGIN", 0.0)
    assert not is_noticed(GOOD)
    assert is_noticed(ROUNDED)


def test_stop_inside_a_stride_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    append, keep = Transcript.append, NeighbourLoop.keep

    def deaf(self: Transcript, token: int) -> None:
        reason = append(self, token)
        if reason == "stop" and not self._vocabulary.is_end(token):
            self.finish_reason = None

    def late(self: NeighbourLoop, proposal: _Guesses, truths: Any) -> Verdict:
        verdict = keep(self, proposal, truths)
        text = verdict.committed.text
        if any(stop.encode() in text for stop in STOPPING.stops):
            self.transcript.finish_reason = "stop"
        return verdict

    monkeypatch.setattr(Transcript, "append", deaf)
    monkeypatch.setattr(NeighbourLoop, "keep", late)
    assert is_noticed(STOPPING)
